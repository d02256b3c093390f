"""Unpacking of wheels, npm tarballs and Debian packages: only the wanted members, never outside the target.

    extract(archive, target, prefixes) -> number of files written

Links, devices and directories are not data and are passed over. A Debian package is an `ar` file around a
tar file.
"""

import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from vlmoe_train.data.samples import DataError

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


def extract(archive: Path, target: Path, prefixes: tuple[str, ...]) -> int:
    """Write the wanted files of an archive below `target`; returns how many there were.

    Raises:
        DataError: not an archive of its kind, damaged, or a wanted member's path leads outside `target`.
    """
    count = 0
    try:
        for name, data in _members(archive, prefixes):
            destination = _inside(target, name, archive)
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes(data)
            count += 1
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        # tarfile lists what it tried over several lines
        reason = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
        raise DataError(f"{archive}: damaged archive ({reason})") from error
    return count


def _inside(target: Path, name: str, archive: Path) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
        raise DataError(f"{archive}: member {name!r} would be written outside the target folder")
    return target / path


def _members(archive: Path, prefixes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if not info.is_dir() and info.filename.startswith(prefixes):
                    yield info.filename, wheel.read(info)
    elif archive.suffix == ".deb":
        yield from _tar_members(io.BytesIO(_deb_data(archive)), prefixes)
    else:
        with archive.open("rb") as file:
            yield from _tar_members(file, prefixes)


def _tar_members(file: IO[bytes], prefixes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file, mode="r:*") as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isfile() and name.startswith(prefixes):
                content = tar.extractfile(member)
                assert content is not None  # isfile() says so
                yield name, content.read()


def _deb_data(archive: Path) -> bytes:
    """The bytes of `data.tar.*` inside a Debian package."""
    content = archive.read_bytes()
    if not content.startswith(_AR_MAGIC):
        raise DataError(f"{archive}: not a Debian package")
    offset = len(_AR_MAGIC)
    while offset + _AR_HEADER <= len(content):
        header = content[offset : offset + _AR_HEADER]
        size_text = header[48:58].strip()
        if not size_text.isdigit():
            break
        offset += _AR_HEADER
        size = int(size_text)
        if header.startswith(b"data.tar"):
            return content[offset : offset + size]
        offset += size + size % 2  # members start at even offsets
    raise DataError(f"{archive}: Debian package without data")
