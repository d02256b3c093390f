"""The box of a drawing and its ground, against a twin that says it in a few plain lines over the whole picture."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from vlmoe_model import content as module
from vlmoe_model.content import Box, Colour, content


def plain(pixels: np.ndarray) -> tuple[Box, Colour]:
    """What `content` says, of uint8 [height, width, 3]."""
    height, width = pixels.shape[:2]
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(border, axis=0).astype(np.int16)
    leaves = (abs(pixels.astype(np.int16) - ground) > 16).any(axis=2)
    colour = tuple(ground.tolist())
    if not leaves.any():
        return (0, 0, width, height), colour
    rows, columns = np.flatnonzero(leaves.any(axis=1)), np.flatnonzero(leaves.any(axis=0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1), colour


def holds(pixels: np.ndarray) -> None:
    assert content(Image.fromarray(pixels)) == plain(pixels), pixels.shape


@pytest.fixture(params=[None, 64], ids=["at once", "in bands"])
def _band(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is not None:
        monkeypatch.setattr(module, "_WHOLE_PIXELS", 0)
        monkeypatch.setattr(module, "_BAND_PIXELS", request.param)


@pytest.mark.usefixtures("_band")
def test_it_says_what_the_plain_one_says() -> None:
    dice = np.random.default_rng(0)
    shapes = [(1, 1), (1, 2), (2, 1), (1, 70), (70, 1), (3, 3), (160, 160)]
    shapes += [tuple(dice.integers(1, 40, 2)) for _ in range(150)]
    for number, (height, width) in enumerate(shapes):
        ground = dice.integers(256, size=3) if number % 3 else dice.choice([0, 255, 8, 250], 3)
        noise = dice.integers(-18, 19, (height, width, 3)) if number % 2 else 0
        pixels = np.clip(np.broadcast_to(ground, (height, width, 3)) + noise, 0, 255).astype(np.uint8)
        top, left = int(dice.integers(height)), int(dice.integers(width))
        part = pixels[top : top + int(dice.integers(height)), left : left + int(dice.integers(width))]
        part[:] = dice.integers(256, size=part.shape)
        holds(pixels)


@pytest.mark.usefixtures("_band")
@pytest.mark.parametrize(
    "at", [(0, 0), (0, 29), (19, 0), (19, 29), (0, 11), (19, 11), (7, 0), (7, 29), (7, 11)]
)
@pytest.mark.parametrize("away", [-17, -16, 16, 17])
def test_one_pixel_anywhere_counts_from_seventeen_steps_on(at: tuple[int, int], away: int) -> None:
    pixels = np.full((20, 30, 3), 100, np.uint8)
    pixels[(*at, 1)] = 100 + away
    holds(pixels)
    box, ground = content(Image.fromarray(pixels))
    one = (at[1], at[0], at[1] + 1, at[0] + 1)
    assert (box, ground) == (one if abs(away) == 17 else (0, 0, 30, 20), (100, 100, 100))


def test_between_two_colours_of_a_border_the_ground_is_rounded_down() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[1] = (5, 6, 255)
    holds(pixels)
    assert content(Image.fromarray(pixels))[1] == (2, 3, 127)


def test_a_large_photo_stops_the_search_at_its_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    leaves = module._leaves

    def counted(pixels: np.ndarray, ground: Colour) -> np.ndarray:
        seen.append(pixels.size // 3)
        return leaves(pixels, ground)

    monkeypatch.setattr(module, "_leaves", counted)
    pixels = np.random.default_rng(0).integers(256, size=(1500, 2000, 3), dtype=np.uint8)
    holds(pixels)
    assert len(seen) == 4
    assert max(seen) <= 1 << 16


def test_a_large_picture_is_not_copied() -> None:
    pixels = np.full((2500, 2000, 3), 200, np.uint8)
    pixels[1200:1300, 900:1000] = 0
    image = Image.fromarray(pixels)
    tracemalloc.start()
    try:
        assert content(image)[0] == (900, 1200, 1000, 1300)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * 3 * (1 << 16)
