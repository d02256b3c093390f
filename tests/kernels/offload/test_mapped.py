"""The mapped file: what is let go leaves memory, and comes back as it was."""

import ctypes
import mmap
import tempfile
from pathlib import Path

import pytest

from vlmoe_kernels.offload.mapped import Mapped, file_system, whole_pages

SIZE = 64 * mmap.PAGESIZE


def pages_in_memory(mapped: Mapped) -> int:
    """Of the file, ours or the system's: mincore(2)."""
    present = (ctypes.c_ubyte * (mapped.num_bytes // mmap.PAGESIZE))()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(mapped.address), ctypes.c_size_t(mapped.num_bytes), present) == 0
    return sum(page & 1 for page in present)


@pytest.fixture
def mapped() -> Mapped:
    mapped = Mapped(SIZE, Path("/var/tmp"))
    ctypes.memset(mapped.address, 7, SIZE)
    return mapped


def test_bytes_leave_memory_and_come_back(mapped: Mapped) -> None:
    assert pages_in_memory(mapped) == 64
    mapped.write_out(0, SIZE)
    mapped.let_go(0, SIZE)
    assert pages_in_memory(mapped) == 0
    half = SIZE // 2
    mapped.read_soon(0, half)
    mapped.read(0, half)
    assert pages_in_memory(mapped) >= 32
    assert ctypes.string_at(mapped.address, SIZE) == b"\7" * SIZE


def test_locked_bytes_stay(mapped: Mapped) -> None:
    mapped.write_out(0, SIZE)
    page = mmap.PAGESIZE
    if not mapped.lock(0, page):
        pytest.skip("this system does not let us lock a single page")
    mapped.let_go(0, page)
    assert pages_in_memory(mapped) >= 1
    mapped.unlock(0, page)
    mapped.let_go(0, SIZE)
    assert pages_in_memory(mapped) == 0


def test_a_folder_that_will_not_do_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no space for the experts: No such file"):
        Mapped(SIZE, tmp_path / "none")
    with pytest.raises(ValueError, match=r"MB free, the experts need 1000000000000 MB: set TMPDIR"):
        Mapped(10**18, tmp_path)
    if Path("/dev/shm").is_dir() and file_system(Path("/dev/shm")) == "tmpfs":
        with pytest.raises(ValueError, match=r"/dev/shm is memory itself \(tmpfs\)"):
            Mapped(SIZE, Path("/dev/shm"))


def test_nothing_is_left_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    mapped = Mapped(SIZE)
    assert list(tmp_path.iterdir()) == []
    assert mapped.num_bytes == SIZE


def test_whole_pages() -> None:
    page = mmap.PAGESIZE
    assert [whole_pages(n) for n in (1, page, page + 1)] == [page, page, 2 * page]
