"""The C twin has Pillow's bits, whatever the shapes, and its absence is no more than slow."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmoe_model import resizing
from vlmoe_model.resizing import METHODS, by_pillow, resized


@pytest.fixture
def in_c() -> None:
    try:
        resizing.build()
    except RuntimeError as reason:
        pytest.skip(f"resizing in C cannot be built here: {reason}")
    assert resizing.in_c() is not None


@pytest.fixture
def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No library was found yet, and none is in the cache."""
    monkeypatch.setenv("VLMOE_KERNELS_CACHE", str(tmp_path / "cache"))
    resizing.in_c.cache_clear()
    yield monkeypatch
    resizing.in_c.cache_clear()


def picture(dice: np.random.Generator, width: int, height: int, *, harsh: bool = False) -> Image.Image:
    """Noise; harsh: of the ends of the range, which cubic weights overshoot."""
    shape = (height, width, 3)
    values = dice.choice([0, 255], shape) if harsh else dice.integers(256, size=shape)
    return Image.fromarray(values.astype(np.uint8))


@pytest.mark.usefixtures("in_c")
@pytest.mark.parametrize("method", sorted(METHODS))
def test_it_has_pillows_bits_in_all_shapes(method: str) -> None:
    dice = np.random.default_rng(0)
    odd = [(1, 1), (1, 63), (63, 1), (2, 2000), (2000, 2), (5, 16), (16, 17), (160, 160), (241, 100)]
    random = [tuple(int(side) for side in dice.integers(1, 200, 2)) for _ in range(60)]
    for number, (width, height) in enumerate(odd + random):
        image = picture(dice, width, height, harsh=number % 3 == 0)
        left, top = int(dice.integers(width)), int(dice.integers(height))
        box = (left, top, int(dice.integers(left, width)) + 1, int(dice.integers(top, height)) + 1)
        for size in ((96, 96), (1, 1), (int(dice.integers(1, 120)), int(dice.integers(1, 120)))):
            for part in (None, box):
                ours, theirs = resized(image, size, method, part), by_pillow(image, size, method, part)
                assert (ours.dtype, ours.flags.writeable) == (theirs.dtype, True)
                assert ours.shape == theirs.shape
                np.testing.assert_array_equal(ours, theirs, err_msg=f"{image.size} {part} -> {size}")


@pytest.mark.usefixtures("in_c")
def test_the_usual_pictures_take_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "by_pillow", None)
    dice = np.random.default_rng(0)
    for size in ((160, 160), (640, 480), (480, 640), (28, 28), (1024, 1024)):
        assert resized(picture(dice, *size), (96, 96), "bicubic").shape == (96, 96, 3)


def test_a_large_picture_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no copy of the picture."""
    monkeypatch.setattr(resizing, "in_c", None)
    image = picture(np.random.default_rng(0), 1025, 1024)
    np.testing.assert_array_equal(resized(image, (8, 8), "bicubic"), by_pillow(image, (8, 8), "bicubic"))


def test_without_a_compiler_pillow_does_it_and_it_is_said_once(
    another_machine: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    another_machine.setenv("PATH", str(tmp_path))
    image = picture(np.random.default_rng(0), 30, 20)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            np.testing.assert_array_equal(
                resized(image, (8, 9), "bilinear"), by_pillow(image, (8, 9), "bilinear")
            )
    said = "pictures are resized by Pillow, not in C: no C compiler on the path"
    assert [record.message for record in caplog.records] == [said]


@pytest.mark.usefixtures("in_c")
def test_a_pillow_that_resizes_in_another_way_is_followed(
    another_machine: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def another(*arguments: object) -> np.ndarray:
        return by_pillow(*arguments) ^ 1  # type: ignore[arg-type]

    another_machine.setattr(resizing, "by_pillow", another)
    image = picture(np.random.default_rng(0), 30, 20)
    np.testing.assert_array_equal(
        resized(image, (8, 9), "bicubic"), np.array(image.resize((8, 9), METHODS["bicubic"])) ^ 1
    )
    assert [record.message for record in caplog.records] == [
        "pictures are resized by Pillow, not in C: this Pillow resizes in another way"
    ]
