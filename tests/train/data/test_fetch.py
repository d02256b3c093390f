import dataclasses
import os
import stat
from pathlib import Path

import pytest

from vlmoe_train.data.fetch import fetch, package_dir, verify
from vlmoe_train.data.samples import DataError
from vlmoe_train.data.sources import Package

Packages = tuple[Path, dict[str, Package]]


def client(folder: Path, name: str, script: str) -> None:
    """A registry client: a program of that name on the PATH."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that comes first on a PATH with no registry client."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_archives_below_a_folder_are_unpacked_once(tmp_path: Path, packages: Packages) -> None:
    folder, table = packages
    lines: list[str] = []
    fetch("easy_vqa", tmp_path, source=folder.parent, say=lines.append, packages=table)
    assert lines == ["easy-vqa: 53 files from easy-vqa==1.0 (MIT)"]
    kept = package_dir(tmp_path, "easy-vqa")
    assert (kept / "easy_vqa/data/train/questions.json").is_file()
    assert not (kept / "easy_vqa/easy_vqa.py").exists()
    fetch("easy_vqa", tmp_path, source=tmp_path / "nowhere", say=lines.append, packages=table)
    assert lines[1:] == ["easy-vqa: already there"]


def test_another_version_replaces_the_old_one(tmp_path: Path, packages: Packages) -> None:
    folder, table = packages
    old = tmp_path / "raw" / "easy-vqa"
    old.mkdir(parents=True)
    (old / ".sha256").write_text("0" * 64)
    (old / "stale").write_text("x")
    fetch("easy_vqa", tmp_path, source=folder, say=str, packages=table)
    assert not (old / "stale").exists()
    assert (old / "easy_vqa").is_dir()
    assert sorted(path.name for path in old.parent.iterdir()) == ["easy-vqa"]


def test_a_wrong_checksum_is_refused_before_unpacking(tmp_path: Path, packages: Packages) -> None:
    folder, table = packages
    table = {**table, "easy-vqa": dataclasses.replace(table["easy-vqa"], sha256="0" * 64)}
    with pytest.raises(
        DataError, match=r"easy_vqa.*whl: sha256 is [0-9a-f]{64}, expected 0{64} for easy-vqa==1.0"
    ):
        fetch("easy_vqa", tmp_path, source=folder, say=str, packages=table)
    assert not (tmp_path / "raw").exists()


def test_a_missing_archive_is_named_with_its_command(tmp_path: Path, packages: Packages) -> None:
    with pytest.raises(
        DataError, match=r"emojibase-data-17.0.0.tgz is not in .*npm pack --silent emojibase-data@17"
    ):
        fetch("emoji", tmp_path, source=tmp_path, say=str, packages=packages[1])


@pytest.mark.parametrize(
    ("dataset", "name"), [("fashion_mnist", "apt-get"), ("emoji", "npm"), ("easy_vqa", "pip")]
)
def test_a_missing_client_is_named(
    tmp_path: Path,
    clients: Path,
    packages: Packages,
    monkeypatch: pytest.MonkeyPatch,
    dataset: str,
    name: str,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(DataError, match=f"needs the client '{name}', which is not installed; .*--from DIR"):
        fetch(dataset, tmp_path / "data", say=str, packages=packages[1])


def test_the_client_downloads_the_pinned_version(tmp_path: Path, clients: Path, packages: Packages) -> None:
    folder, table = packages
    package = table["fashion-mnist"]
    # as apt-get does, the file's name comes out escaped
    client(
        clients,
        "apt-get",
        f'echo "$@" > {tmp_path}/asked; /bin/cp "{folder / package.archive}" x%7e1_all.deb',
    )
    before = os.getcwd()
    fetch("fashion_mnist", tmp_path / "data", say=str, packages=table)
    assert (tmp_path / "asked").read_text().split()[-2:] == ["--quiet=2", package.spec]
    assert (package_dir(tmp_path / "data", "fashion-mnist") / "usr").is_dir()
    assert os.getcwd() == before


def test_an_environments_own_pip_will_do(
    tmp_path: Path, clients: Path, packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table = packages
    archive = folder / table["easy-vqa"].archive
    client(clients, "python", f'echo "$@" > {tmp_path}/asked; /bin/cp "{archive}" .')
    monkeypatch.setattr("sys.executable", str(clients / "python"))
    fetch("easy_vqa", tmp_path / "data", say=str, packages=table)
    assert (tmp_path / "asked").read_text().startswith("-m pip download ")


def test_a_failing_client_is_one_line_with_its_reason(
    tmp_path: Path, clients: Path, packages: Packages
) -> None:
    client(clients, "npm", "echo noise >&2; echo 'network is down' >&2; exit 3")
    with pytest.raises(DataError, match=r"^npm pack .* failed: network is down \(or use --from DIR\)$"):
        fetch("emoji", tmp_path / "data", say=str, packages=packages[1])


def test_a_client_that_writes_nothing_is_reported(tmp_path: Path, clients: Path, packages: Packages) -> None:
    client(clients, "npm", "exit 0")
    with pytest.raises(DataError, match=r"wrote 0 archives, expected emojibase-data-17.0.0.tgz"):
        fetch("emoji", tmp_path / "data", say=str, packages=packages[1])


def test_an_archive_without_the_wanted_files_is_refused(tmp_path: Path, packages: Packages) -> None:
    folder, table = packages
    table = {**table, "easy-vqa": dataclasses.replace(table["easy-vqa"], members=("other/",))}
    with pytest.raises(DataError, match="none of the wanted files"):
        fetch("easy_vqa", tmp_path, source=folder, say=str, packages=table)
    assert list((tmp_path / "raw").iterdir()) == []


def test_what_is_not_fetched_says_how(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"raw/noto is missing; run: vlmoe data fetch demo --to"):
        package_dir(tmp_path, "noto")


def test_verify_accepts_the_right_file(packages: Packages) -> None:
    folder, table = packages
    for package in table.values():
        verify(folder / package.archive, package)
