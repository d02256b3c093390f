import gc
import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import vlmoe_serve.encoding.pictures
from vlmoe_model.config import ImageSpec
from vlmoe_model.errors import BrokenImageError, ImageTooLargeError
from vlmoe_model.images import load_image
from vlmoe_serve.encoding.pictures import Pictures

from ..waiting import PATIENCE_S

SPEC, SMALLER = ImageSpec(size=16), ImageSpec(size=8)


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def decoded(monkeypatch):
    """The files that were decoded, in order."""
    files = []

    def counted(data, spec, **limits):
        files.append(data)
        return load_image(data, spec, **limits)

    monkeypatch.setattr(vlmoe_serve.encoding.pictures, "load_image", counted)
    return files


def test_a_file_is_decoded_once_for_each_preprocessing(decoded):
    pictures = Pictures(10**6, 10**6)
    red = png("red")
    for spec in (SPEC, SPEC, SMALLER, SPEC, SMALLER):
        np.testing.assert_array_equal(pictures.load(red, spec), load_image(red, spec))
    assert len(decoded) == 2
    assert (pictures.stats.hits, pictures.stats.misses) == (3, 2)
    assert not np.array_equal(pictures.load(png("blue"), SPEC), pictures.load(red, SPEC))


def test_a_draft_is_another_picture():
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    pictures = Pictures(10**6, 10**6)
    draft = ImageSpec(size=16, jpeg_draft=True)
    assert (pictures.load(buffer.getvalue(), SPEC) != pictures.load(buffer.getvalue(), draft)).any()


def test_without_a_cache_nothing_is_hashed_or_kept(decoded):
    pictures = Pictures(10**6)
    for _ in range(3):
        pictures.load(png("red"), SPEC)
    assert len(decoded) == 3
    assert (pictures.stats.hits, pictures.stats.misses, pictures.stats.num_bytes) == (0, 0, 0)


def test_what_is_kept_cannot_be_changed():
    kept = Pictures(10**6, 10**6).load(png("red"), SPEC)
    with pytest.raises(ValueError, match="read-only"):
        kept[0, 0] = 0


def test_threads_that_want_the_same_file_decode_it_once(monkeypatch):
    started, go, count = threading.Event(), threading.Event(), []

    def slow(data, spec, **limits):
        count.append(1)
        started.set()
        assert go.wait(PATIENCE_S)
        return load_image(data, spec, **limits)

    monkeypatch.setattr(vlmoe_serve.encoding.pictures, "load_image", slow)
    pictures, red = Pictures(10**6, 10**6), png("red")
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(pictures.load, red, SPEC)
        assert started.wait(PATIENCE_S)
        others = [pool.submit(pictures.load, red, SPEC) for _ in range(3)]
        while pictures.stats.misses < 4:
            threading.Event().wait(0.001)
        go.set()
        for one in (first, *others):
            assert one.result(timeout=PATIENCE_S).shape == (16, 16, 3)
    assert len(count) == 1


def test_failures_are_not_kept_and_limits_hold():
    pictures = Pictures(100, 10**6)
    for _ in range(2):
        with pytest.raises(ImageTooLargeError):
            pictures.load(png("red"), SPEC)
    with pytest.raises(BrokenImageError):
        pictures.load(png("red")[:40], SPEC)
    assert pictures.stats.num_entries == 0


def test_a_file_that_fails_is_let_go_without_the_collector(monkeypatch):
    """It may be tens of megabytes, and the collector rests."""
    started, go = threading.Event(), threading.Event()

    def failing(data, spec, **limits):
        started.set()
        assert go.wait(PATIENCE_S)
        raise BrokenImageError("broken")

    def attempt(data):
        try:
            pictures.load(data, SPEC)
        except BrokenImageError:
            return
        raise AssertionError

    monkeypatch.setattr(vlmoe_serve.encoding.pictures, "load_image", failing)
    pictures, broken = Pictures(10**6, 10**6), bytes([1, 2, 3])
    gc.disable()
    try:
        before = sys.getrefcount(broken)
        threads = [threading.Thread(target=attempt, args=(broken,)) for _ in range(3)]
        threads[0].start()
        assert started.wait(PATIENCE_S)
        for thread in threads[1:]:
            thread.start()
        while pictures.stats.misses < 3:
            threading.Event().wait(0.001)
        go.set()
        for thread in threads:
            thread.join()
        del thread
        threads.clear()
        assert sys.getrefcount(broken) == before
    finally:
        gc.enable()
