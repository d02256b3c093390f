"""A file without a name, mapped into memory, of which only parts are in memory: what the Linux kernel is told."""

import ctypes
import mmap
import os
import shutil
import tempfile
import weakref
from pathlib import Path

# file systems that are memory themselves
_IN_MEMORY = ("tmpfs", "ramfs")
# an advice to read reaches no further than the device's read-ahead, on most of them
_ADVICE_BYTES = 128 << 10
# since Linux 5.14; the mmap module does not know it
_MADV_POPULATE_READ = 22
_PAGE = mmap.PAGESIZE


class Mapped:
    """Zeroed bytes on disk with an address. What is not in memory is read when it is touched."""

    def __init__(self, num_bytes: int, folder: Path | None = None) -> None:
        """Take the space at once: a disk that fills up later cannot harm.

        Args:
            num_bytes: a multiple of the page size.
            folder: where the file is, without a name: it goes with the process. None for `TMPDIR`, or else /var/tmp,
                which lies on a disk more often than the system's folder for small files does.

        Raises:
            ValueError: no such folder, no space there, or the folder is in memory itself.
        """
        folder = folder or _folder()
        try:
            if (kind := file_system(folder)) in _IN_MEMORY:
                raise ValueError(f"{folder} is memory itself ({kind}): set TMPDIR to a folder on a disk")
            if (free := shutil.disk_usage(folder).free) < num_bytes:
                raise ValueError(
                    f"{folder} has {free / 1e6:.0f} MB free, the experts need {num_bytes / 1e6:.0f} MB: "
                    "set TMPDIR to a larger folder"
                )
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as this object
            weakref.finalize(self, file.close)
            self._fd = file.fileno()
            os.posix_fallocate(self._fd, 0, num_bytes)
        except OSError as error:
            raise ValueError(f"{folder}: no space for the experts: {error.strerror}") from error
        self.num_bytes = num_bytes
        self._map = mmap.mmap(self._fd, num_bytes)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        # of ctypes, whose calls let other threads run; those of the mmap module do not
        self._libc = ctypes.CDLL(None, use_errno=True)
        for name, num_arguments in (("madvise", 3), ("mlock", 2), ("munlock", 2)):
            arguments = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
            getattr(self._libc, name).argtypes = arguments[:num_arguments]

    def read(self, begin: int, end: int) -> None:
        """Have these bytes in memory when it returns. Thread-safe, as all here is."""
        self._advise(begin, end, _MADV_POPULATE_READ)

    def read_soon(self, begin: int, end: int) -> None:
        """Have the disk begin with these bytes."""
        for at in range(begin, end, _ADVICE_BYTES):
            self._advise(at, min(at + _ADVICE_BYTES, end), mmap.MADV_WILLNEED)

    def let_go(self, begin: int, end: int) -> None:
        """Free the memory of these bytes: ours, and the system's copy of the file."""
        self._advise(begin, end, mmap.MADV_DONTNEED)
        os.posix_fadvise(self._fd, begin, end - begin, os.POSIX_FADV_DONTNEED)

    def write_out(self, begin: int, end: int) -> None:
        """Have these bytes on the disk: before, they cannot be let go."""
        self._map.flush(begin, end - begin)

    def lock(self, begin: int, end: int) -> bool:
        """Keep these bytes in memory whatever else wants it; whether the system allows that."""
        return bool(self._libc.mlock(self.address + begin, end - begin) == 0)

    def unlock(self, begin: int, end: int) -> None:
        """Not any more."""
        self._libc.munlock(self.address + begin, end - begin)

    def _advise(self, begin: int, end: int, advice: int) -> None:
        # an advice that is not known or not taken costs time only: the bytes are read when they are touched
        self._libc.madvise(self.address + begin, end - begin, advice)


def _folder() -> Path:
    large = Path("/var/tmp")
    if not os.environ.get("TMPDIR") and os.access(large, os.W_OK):
        return large
    return Path(tempfile.gettempdir())


def whole_pages(num_bytes: int) -> int:
    """That many bytes, or up to one page more."""
    return -(-num_bytes // _PAGE) * _PAGE


def file_system(folder: Path) -> str:
    """Its kind, as mount calls it; empty where the system does not say.

    Raises:
        OSError: no such folder.
    """
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in lines:
        # see proc_pid_mountinfo(5): the third field is the device, the kind stands behind a lone dash
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return ""
