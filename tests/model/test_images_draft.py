import contextlib
import dataclasses
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from vlmoe_model.config import ImageSpec
from vlmoe_model.errors import BrokenImageError
from vlmoe_model.images import load_image, open_image, prepare

PLAIN = ImageSpec(size=32)
DRAFT = dataclasses.replace(PLAIN, jpeg_draft=True)


def photo(size: tuple[int, int] = (640, 480)) -> Image.Image:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("size", "at_least", "opened"),
    [
        ((640, 480), 32, (80, 60)),
        ((640, 480), 60, (80, 60)),
        ((640, 480), 61, (160, 120)),
        ((640, 480), 241, (640, 480)),
        ((640, 40), 32, (640, 40)),
        ((20, 20), 32, (20, 20)),
    ],
)
def test_a_jpeg_is_decoded_smaller_but_never_too_small(
    size: tuple[int, int], at_least: int, opened: tuple[int, int]
) -> None:
    assert open_image(encode(photo(size)), at_least=at_least).size == opened


def test_a_draft_is_nearly_the_same_picture_and_other_pixels() -> None:
    data = encode(photo(), quality=95)
    plain, draft = load_image(data, PLAIN), load_image(data, DRAFT)
    assert (plain != draft).any()
    assert np.abs(plain.astype(int) - draft).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP"])
def test_other_formats_are_not_touched(kind: str) -> None:
    data = encode(photo(), kind)
    np.testing.assert_array_equal(load_image(data, PLAIN), load_image(data, DRAFT))


def test_without_the_field_the_pixels_are_those_of_a_full_decode() -> None:
    data = encode(photo())
    with Image.open(BytesIO(data)) as image:
        np.testing.assert_array_equal(load_image(data, PLAIN), prepare(image.convert("RGB"), PLAIN))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_drafts_become_rgb(mode: str) -> None:
    data = encode(photo().convert(mode), quality=95)
    plain, draft = load_image(data, PLAIN), load_image(data, DRAFT)
    assert draft.shape == (32, 32, 3)
    assert np.abs(plain.astype(int) - draft).mean() < 4


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_draft_stands_upright_too(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(), quality=95, exif=exif)
    assert np.abs(load_image(data, PLAIN).astype(int) - load_image(data, DRAFT)).mean() < 4
    upright = (480, 640) if orientation != 3 else (640, 480)
    assert open_image(data, at_least=32).size == (upright[0] // 8, upright[1] // 8)


def test_a_progressive_draft_and_a_truncated_one() -> None:
    data = encode(photo(), progressive=True, quality=95)
    assert np.abs(load_image(data, PLAIN).astype(int) - load_image(data, DRAFT)).mean() < 4
    with pytest.raises(BrokenImageError):
        load_image(encode(photo())[:-2000], DRAFT)


def test_turns_are_taken_with_the_pixels_that_will_be_decoded() -> None:
    taken = []

    @contextlib.contextmanager
    def turn(num_pixels: int):  # type: ignore[no-untyped-def]
        taken.append(num_pixels)
        yield
        taken.append(0)

    load_image(encode(photo()), PLAIN, turn=turn)
    load_image(encode(photo()), DRAFT, turn=turn)
    with pytest.raises(BrokenImageError):
        load_image(encode(photo())[:-2000], PLAIN, turn=turn)
    assert taken == [640 * 480, 0, 80 * 60, 0, 640 * 480]
