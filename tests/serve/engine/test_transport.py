import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vlmoe_model.inputs import Example, Job
from vlmoe_serve.engine.transport import Arena, ArenaView

from ..waiting import named_memory

images = st.integers(1, 40).flatmap(lambda size: arrays.arrays(np.uint8, (size, size, 3)))
texts = arrays.arrays(np.int32, st.integers(1, 50))
examples = (
    st.builds(Example, images, texts) | st.builds(Example, images) | st.builds(Example, st.none(), texts)
)
jobs_lists = st.lists(st.builds(Job, st.sampled_from(["vqa", "itc"]), examples), max_size=6)


def check_same(received: Sequence[Job], sent: Sequence[Job]) -> None:
    assert [job.head for job in received] == [job.head for job in sent]
    for got, job in zip(received, sent, strict=True):
        for one, other in [(got.example.image, job.example.image), (got.example.tokens, job.example.tokens)]:
            if other is None:
                assert one is None
            else:
                assert one is not None
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)


@given(st.lists(jobs_lists, min_size=1, max_size=3))
def test_jobs_arrive_as_they_were_sent_batch_after_batch(batches: list[list[Job]]) -> None:
    arena = Arena()
    view = ArenaView(arena.fd)
    for jobs in batches:
        refs, size = arena.write(jobs)
        check_same(view.read(refs, size), jobs)
    arena.close()


def test_an_arena_grows_with_its_batches() -> None:
    arena = Arena()
    view = ArenaView(arena.fd)
    for side in (8, 800, 1600, 8):
        jobs = [Job("vqa", Example(np.full((side, side, 3), side % 256, np.uint8)))]
        refs, size = arena.write(jobs)
        check_same(view.read(refs, size), jobs)
    arena.close()


def test_an_image_that_jobs_share_is_sent_once() -> None:
    arena = Arena()
    image = np.ones((64, 64, 3), np.uint8)
    jobs = [Job("vqa", Example(image, np.full(4, number, np.int32))) for number in range(50)]
    refs, size = arena.write(jobs)
    assert size < 2 * image.nbytes
    check_same(ArenaView(arena.fd).read(refs, size), jobs)
    arena.close()


def test_arrays_that_are_not_contiguous_arrive_right() -> None:
    arena = Arena()
    wide = np.arange(16 * 16 * 3, dtype=np.int64).astype(np.uint8).reshape(16, 16, 3)
    jobs = [Job("vqa", Example(wide[::2, ::-2], np.arange(20, dtype=np.int32)[::3]))]
    refs, size = arena.write(jobs)
    check_same(ArenaView(arena.fd).read(refs, size), jobs)
    arena.close()


def test_an_arena_has_no_name_and_leaves_no_descriptor() -> None:
    named = named_memory()
    arena = Arena()
    arena.write([Job("vqa", Example(np.ones((64, 64, 3), np.uint8)))])
    assert named_memory() <= named
    assert "vlmoe-arena" in os.readlink(f"/proc/self/fd/{arena.fd}")
    arena.close()
    arena.close()
    assert not [fd for fd in Path("/proc/self/fd").iterdir() if "vlmoe-arena" in _target(fd)]


def _target(fd: Path) -> str:
    try:
        return os.readlink(fd)
    except FileNotFoundError:  # the descriptor of the listing itself
        return ""
