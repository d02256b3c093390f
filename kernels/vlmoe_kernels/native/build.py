"""The C++ sources to a shared library, once for each user, source, torch and kind of processor.

    find -> (lock -> compile -> rename) -> path

The library knows nothing of torch's C++ interface, so it compiles in seconds. torch's version still counts, because
both must use the same copy of OpenMP. What a processor can do is named, never "native": a library built in an image
is right wherever it loads.
"""

import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "src"
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=x86-64-v4",
    "-mprefer-vector-width=512",
    "-fopenmp",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    # headers of some compilers warn of themselves
    "-w",
)
BF16_FLAGS = (*FLAGS, "-mavx512bf16")
# what x86-64-v4 adds to what every processor of the last ten years has
AVX512 = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
BF16 = "avx512_bf16"
# what products of bytes need; compiled for all, used where it is there
VNNI = "avx512_vnni"

# "off": do as if the library could not be built
SWITCH = "VLMOE_KERNELS_NATIVE"
SWITCHED_OFF = f"{SWITCH}=off"
# where built libraries lie, instead of the user's cache directory
CACHE = "VLMOE_KERNELS_CACHE"

_log = logging.getLogger(__name__)


class Unavailable(Exception):
    """The library cannot be had here, and why."""


@functools.cache
def cpu_flags() -> frozenset[str]:
    """What the processor can do, in the words of Linux; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), []))


def cache_directory() -> Path:
    """Where libraries are kept: VLMOE_KERNELS_CACHE, or below the user's cache directory."""
    chosen = os.environ.get(CACHE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlmoe" / "kernels"


def build() -> Path:
    """The library, compiled if it is not there. Processes that come at the same time compile it once.

    Raises:
        Unavailable: switched off, another kind of machine, no compiler, or a cache directory that cannot be used.
    """
    if os.environ.get(SWITCH) == "off":
        raise Unavailable(SWITCHED_OFF)
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable(f"they are for Linux on x86-64, not {sys.platform} on {platform.machine()}")
    missing = AVX512 - cpu_flags()
    if missing:
        raise Unavailable(f"the processor lacks {', '.join(sorted(missing))}")
    return _build(BF16_FLAGS if BF16 in cpu_flags() else FLAGS)


def build_all() -> list[Path]:
    """The libraries for every processor that has one, whatever this one is: for images.

    Raises:
        Unavailable: no compiler, or a cache directory that cannot be used.
    """
    return [_build(FLAGS), _build(BF16_FLAGS)]


def _build(flags: tuple[str, ...]) -> Path:
    directory = cache_directory()
    path = directory / f"vlmoe-kernels-{_key(flags)}.so"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(directory)
        if not path.exists():
            with _locked(path.with_suffix(".lock")):
                if not path.exists():
                    _compile(flags, path)
    except OSError as error:
        raise Unavailable(f"cache directory {directory}: {error.strerror or error}") from error
    return path


def _key(flags: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr((flags, torch.__version__)).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _check_owner(directory: Path) -> None:
    """A library is code: nobody else may be able to put one there."""
    info = directory.stat()
    if info.st_uid not in (0, os.getuid()) or info.st_mode & 0o022:
        raise Unavailable(f"cache directory {directory}: others may write to it")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # not on every system, and only needed on this one
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(flags: tuple[str, ...], path: Path) -> None:
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        raise Unavailable(f"no compiler: {compiler} was not found")
    _log.info("building the CPU kernels, once for this machine, into %s", path.parent)
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as scratch:
        built = Path(scratch) / path.name
        command = [compiler, *flags, str(SOURCES / "kernels.cpp"), "-o", str(built), *_openmp()]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            first_error = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
            raise Unavailable(f"{compiler} failed: {first_error.strip()}")
        # whole or not at all, also for a process that looks without the lock
        built.replace(path)
    _log.info("built the CPU kernels in %.0f s", time.monotonic() - start_s)


def _openmp() -> list[str]:
    """Torch's own copy of OpenMP before the compiler's: a second one would be a second pool of threads."""
    home = Path(torch.__file__).parent
    found = sorted([*home.glob("lib/libgomp*"), *home.with_name("torch.libs").glob("libgomp*")])
    return ["-Wl,--as-needed", *map(str, found[:1])]
