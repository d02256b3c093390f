"""A C file to a shared library, compiled on this machine at first use: no torch, no headers but C's own.

The library lies in the user's cache under a name made from its source, so an upgrade never meets an old one. Whoever
loads one has a twin in Python for machines without a compiler.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

_BUILD_S = 60.0


def load(source: Path, directory: Path, flags: Sequence[str] = ()) -> ctypes.CDLL:
    """The library of a source, built in `directory` if it is not there.

    Raises:
        RuntimeError: why it cannot be had, in one line.
    """
    try:
        return ctypes.CDLL(str(build(source, directory, flags)))
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(" ".join(str(error).split())) from error


def cache_directory() -> Path:
    """Where libraries are kept: VLMOE_KERNELS_CACHE, or below the user's cache directory."""
    chosen = os.environ.get("VLMOE_KERNELS_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlmoe"


def build(source: Path, directory: Path, flags: Sequence[str] = ()) -> Path:
    """Compile a source into `directory`, unless that was done before.

    Raises:
        RuntimeError: no compiler, or a directory that another user can write to. OSError, SubprocessError: it failed.
    """
    text = source.read_bytes()
    key = hashlib.sha256(text + "".join((sysconfig.get_platform(), *flags)).encode()).hexdigest()[:16]
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    _refuse_foreign(directory)
    target = directory / f"{source.stem}-{key}.so"
    if target.exists():
        return target
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise RuntimeError("no C compiler on the path")
    # built beside its place and moved there whole: another process may be doing the same
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        built = Path(scratch) / target.name
        command = [
            compiler,
            *(flags or ("-O2",)),
            "-std=c99",
            "-shared",
            "-fPIC",
            "-o",
            str(built),
            str(source),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{compiler} failed: {' '.join(done.stderr.split())}")
        built.replace(target)
    return target


def _refuse_foreign(directory: Path) -> None:
    """Code is loaded from here, so nobody else may write to it."""
    if hasattr(os, "getuid"):
        status = directory.stat()
        if status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022:
            raise RuntimeError(f"{directory} can be written by others")
