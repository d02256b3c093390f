"""The build with small sources and a compiler that counts, so that it takes no time."""

import ctypes
import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vlmoe_kernels.native import build
from vlmoe_kernels.native.build import AVX512, Unavailable


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that has all it takes, with one small source and an empty cache."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "kernels.cpp").write_text('extern "C" int answer() { return 42; }\n')
    compiler = tmp_path / "compiler"
    compiler.write_text(
        "#!/bin/sh\n"
        f'echo run >> "{tmp_path}/runs"\n'
        'sleep 0.1\n[ -e "$BROKEN" ] && echo "kernels.cpp:1: error: broken" >&2 && exit 1\n'
        'while [ "$1" != "-o" ]; do shift; done\n'
        'echo library > "$2"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setattr(build, "SOURCES", tmp_path / "src")
    monkeypatch.setattr(build, "cpu_flags", lambda: AVX512)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("VLMOE_KERNELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.delenv("VLMOE_KERNELS_NATIVE", raising=False)


def num_compiled(tmp_path: Path) -> int:
    runs = tmp_path / "runs"
    return len(runs.read_text().splitlines()) if runs.exists() else 0


def test_it_is_built_once_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = build.build()
    assert first.parent == tmp_path / "cache"
    assert first.read_text() == "library\n"
    assert build.build() == first
    assert num_compiled(tmp_path) == 1
    assert [record.message.split(" ")[0] for record in caplog.records] == ["building", "built"]
    assert {path.suffix for path in first.parent.iterdir()} == {".so", ".lock"}


def test_those_who_come_at_once_compile_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = {future.result() for future in [pool.submit(build.build) for _ in range(4)]}
    assert len(paths) == 1
    assert num_compiled(tmp_path) == 1


def test_a_built_library_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    path = build.build()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.build() == path


def test_other_sources_other_processors_and_another_torch_are_other_libraries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = [build.build()]
    monkeypatch.setattr(build, "cpu_flags", lambda: AVX512 | {"avx512_bf16"})
    paths.append(build.build())
    monkeypatch.setattr("torch.__version__", "9.9")
    paths.append(build.build())
    (build.SOURCES / "more.h").write_text("#define MORE\n")
    paths.append(build.build())
    assert len(set(paths)) == 4


def test_the_real_compiler_makes_a_library_that_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX")
    (build.SOURCES / "kernels.cpp").write_text(
        'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }\n'
    )
    try:
        path = build.build()
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert ctypes.CDLL(str(path)).answer() == 42


def test_an_image_gets_them_all_on_any_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "cpu_flags", lambda: frozenset())
    paths = build.build_all()
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = []
    for flags in (AVX512, AVX512 | {"avx512_bf16"}):
        monkeypatch.setattr(build, "cpu_flags", lambda flags=flags: flags)
        found.append(build.build())
    assert found == paths
    assert num_compiled(tmp_path) == 2


def test_the_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert stat.S_IMODE(build.build().parent.stat().st_mode) == 0o700
    monkeypatch.delenv("VLMOE_KERNELS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache_directory() == tmp_path / "vlmoe" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert build.cache_directory() == Path("/home/somebody/.cache/vlmoe/kernels")


def assert_unavailable(reason: str) -> None:
    with pytest.raises(Unavailable, match=reason):
        build.build()


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build.build()
    monkeypatch.setenv("VLMOE_KERNELS_NATIVE", "off")
    assert_unavailable("^VLMOE_KERNELS_NATIVE=off$")


def test_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert_unavailable("^no compiler: no-such-compiler was not found$")
    monkeypatch.setattr(build, "cpu_flags", lambda: AVX512 - {"avx512bw", "avx512vl"})
    assert_unavailable("^the processor lacks avx512bw, avx512vl$")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert_unavailable("not linux on aarch64")


def test_a_failed_compilation_names_its_first_error_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken").touch()
    monkeypatch.setenv("BROKEN", str(tmp_path / "broken"))
    assert_unavailable("failed: kernels.cpp:1: error: broken")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_cache_directory_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    assert_unavailable("others may write to it")
    (tmp_path / "file").touch()
    monkeypatch.setenv("VLMOE_KERNELS_CACHE", str(tmp_path / "file" / "cache"))
    assert_unavailable(r"file/cache: Not a directory")
