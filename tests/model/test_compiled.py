"""Sources are compiled once, where nobody else can write."""

import os
import shutil
from pathlib import Path

import pytest

from vlmoe_model import compiled

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler"
)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@needs_compiler
def test_a_source_is_compiled_once_and_a_changed_one_anew(tmp_path: Path) -> None:
    source, cache = tmp_path / "seven.c", tmp_path / "cache"
    write(source, "int seven(void) { return 7; }")
    assert compiled.load(source, cache).seven() == 7
    first = compiled.build(source, cache)
    before = first.stat()
    assert compiled.build(source, cache) == first
    assert first.stat() == before
    write(source, "int seven(void) { return 8; }")
    assert compiled.load(source, cache).seven() == 8
    assert compiled.build(source, cache, ("-O1",)) != compiled.build(source, cache)
    assert sorted(path.suffix for path in cache.iterdir()) == [".so"] * 3


@needs_compiler
def test_what_does_not_compile_or_load_is_one_line(tmp_path: Path) -> None:
    broken = write(tmp_path / "broken.c", "int broken(\n;\n")
    with pytest.raises(RuntimeError, match=r"failed: .*error") as caught:
        compiled.load(broken, tmp_path)
    assert "\n" not in str(caught.value)
    source = write(tmp_path / "fine.c", "int fine(void) { return 1; }")
    write(compiled.build(source, tmp_path / "cache"), "no library")
    with pytest.raises(RuntimeError, match="fine-"):
        compiled.load(source, tmp_path / "cache")


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="no C compiler on the path"):
        compiled.load(write(tmp_path / "fine.c", ""), tmp_path)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners of files")
def test_no_code_is_loaded_from_where_others_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(RuntimeError, match="can be written by others"):
        compiled.build(write(tmp_path / "fine.c", ""), tmp_path)


def test_where_libraries_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMOE_KERNELS_CACHE", "/here")
    assert compiled.cache_directory() == Path("/here")
    monkeypatch.delenv("VLMOE_KERNELS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert compiled.cache_directory() == Path("/there/vlmoe")
