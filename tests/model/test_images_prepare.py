import numpy as np
import pytest
from PIL import Image

from vlmoe_model.config import ImageSpec
from vlmoe_model.images import MAX_SIDE, prepare


def two_tone(size: tuple[int, int] = (20, 10)) -> Image.Image:
    """Left half dark red, right half light blue."""
    image = Image.new("RGB", size, (120, 0, 0))
    image.paste((180, 200, 250), (size[0] // 2, 0, *size))
    return image


def test_prepare_without_crop_resizes_to_the_square() -> None:
    pixels = prepare(two_tone(size=(40, 10)), ImageSpec(size=16))
    assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels[8, 2], (120, 0, 0))
    np.testing.assert_array_equal(pixels[8, 13], (180, 200, 250))


def test_prepare_uses_the_named_filter() -> None:
    image = two_tone(size=(40, 10))
    bicubic, bilinear = (prepare(image, ImageSpec(size=15, resize=name)) for name in ("bicubic", "bilinear"))
    assert (bicubic != bilinear).any()


def test_content_crop_does_not_depend_on_where_the_drawing_lies() -> None:
    def drawing(x: int, y: int) -> np.ndarray:
        image = Image.new("RGB", (100, 80), (250, 250, 250))
        image.paste(two_tone(size=(30, 20)), (x, y))
        return prepare(image, ImageSpec(size=32, crop="content"))

    np.testing.assert_array_equal(drawing(5, 5), drawing(60, 50))


@pytest.mark.parametrize(
    "box", [(0, 0, 1, 1), (63, 64, 65, 129), (130, 1, 199, 150), (0, 0, 200, 150), (64, 63, 128, 64)]
)
def test_the_content_box_is_exact_in_images_of_many_bands(box: tuple[int, int, int, int]) -> None:
    whole = Image.new("RGB", (400, 350), "white")
    whole.paste("black", tuple(100 + side for side in box))
    tight = Image.new("RGB", (box[2] - box[0] + 80, box[3] - box[1] + 80), "white")
    tight.paste("black", (40, 40, tight.width - 40, tight.height - 40))
    spec = ImageSpec(size=24, crop="content")
    np.testing.assert_array_equal(prepare(whole, spec), prepare(tight, spec))


def test_content_crop_keeps_the_aspect_on_the_border_colour() -> None:
    image = Image.new("RGB", (100, 80), (10, 200, 30))
    image.paste((255, 0, 0), (20, 30, 80, 50))
    pixels = prepare(image, ImageSpec(size=60, crop="content"))
    red = (pixels[:, :, 0] > 128).nonzero()
    assert red[1].max() - red[1].min() + 1 == pytest.approx(60 / 1.04, abs=1)
    assert red[0].max() - red[0].min() + 1 == pytest.approx(20 / 1.04, abs=1)
    np.testing.assert_array_equal(pixels[0, 0], (10, 200, 30))
    assert red[0].min() + red[0].max() == pytest.approx(59, abs=1)


def test_content_crop_ignores_faint_noise_on_the_ground() -> None:
    image = Image.new("RGB", (64, 64), (100, 100, 100))
    image.paste((116, 84, 100), (0, 10, 5, 15))
    image.paste((0, 0, 0), (30, 30, 40, 40))
    assert prepare(image, ImageSpec(size=8, crop="content"))[4, 4].max() < 30


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (9, 99, 199)])
def test_content_crop_keeps_a_plain_image_whole(colour: tuple[int, int, int]) -> None:
    pixels = prepare(Image.new("RGB", (30, 10), colour), ImageSpec(size=8, crop="content"))
    assert (pixels == colour).all()


def test_content_crop_of_a_long_thin_image_stays_small() -> None:
    image = Image.new("RGB", (MAX_SIDE, 1))
    image.putpixel((100, 0), (255, 255, 255))
    image.putpixel((MAX_SIDE - 100, 0), (255, 255, 255))
    assert prepare(image, ImageSpec(size=16, crop="content")).shape == (16, 16, 3)


@pytest.mark.parametrize("crop", ["none", "content"])
def test_one_pixel_is_enough(crop: str) -> None:
    pixels = prepare(Image.new("RGB", (1, 1), (1, 2, 3)), ImageSpec(size=4, crop=crop))  # type: ignore[arg-type]
    assert (pixels == (1, 2, 3)).all()


def test_prepare_refuses_other_modes() -> None:
    with pytest.raises(ValueError, match="mode RGB, got L"):
        prepare(Image.new("L", (4, 4)), ImageSpec(size=4))
