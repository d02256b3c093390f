"""Fetch one checkpoint: a tar file by URL, checked by its sha256, unpacked beside its place and moved there.

    AUTHORIZATION=... python fetch_model.py URL SHA256 DIRECTORY

A directory that is there already is complete, because it was moved. Exit code 1 and one line when anything fails.
"""

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

_TIMEOUT_S = 60
_CHUNK = 1 << 20


def fetch(url: str, sha256: str, directory: Path, authorization: str | None) -> None:
    """Leave the checkpoint in `directory`."""
    if directory.exists():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        archive = Path(scratch, "archive")
        found = _download(url, archive, authorization)
        if found != sha256:
            raise ValueError(f"its sha256 is {found}, not {sha256}")
        unpacked = Path(scratch, "unpacked")
        with tarfile.open(archive) as tar:
            _unpack(tar, unpacked)
        archive.unlink()
        found_in = [
            config.parent for config in (*unpacked.glob("config.json"), *unpacked.glob("*/config.json"))
        ]
        if not found_in:
            raise ValueError("holds no config.json, neither at its top nor in a folder there")
        shutil.move(found_in[0], directory)


def _unpack(tar: tarfile.TarFile, target: Path) -> None:
    """Files and folders alone, and nothing beside the target; tarfile's own filter is not in every Python 3.11."""
    tar.extraction_filter = getattr(tarfile, "data_filter", None)
    for member in tar:
        if not (member.isfile() or member.isdir()):
            raise ValueError(f"{member.name!r} is neither a file nor a folder")
        if not (target / member.name).resolve().is_relative_to(target.resolve()):
            raise ValueError(f"{member.name!r} lies outside the destination")
        tar.extract(member, target, set_attrs=False)


def _download(url: str, path: Path, authorization: str | None) -> str:
    request = urllib.request.Request(url, headers={"Authorization": authorization} if authorization else {})
    digest = hashlib.sha256()
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer, path.open("wb") as file:
        while chunk := answer.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def main() -> int:
    """Fetch what the command line says."""
    url, sha256, directory = sys.argv[1:]
    try:
        fetch(url, sha256, Path(directory), os.environ.get("AUTHORIZATION"))
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
