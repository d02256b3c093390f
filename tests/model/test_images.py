import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFile

from vlmoe_model.errors import BrokenImageError, ImageFormatError, ImageTooLargeError
from vlmoe_model.images import DEFAULT_FORMATS, MAX_SIDE, open_image


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def two_tone(mode: str = "RGB", size: tuple[int, int] = (20, 10)) -> Image.Image:
    """Left half dark red, right half light blue."""
    image = Image.new("RGB", size, (120, 0, 0))
    image.paste((180, 200, 250), (size[0] // 2, 0, *size))
    return image.convert(mode)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    start = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return start + png_chunk(b"IDAT", zlib.compress(b"\0" * 64)) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", DEFAULT_FORMATS)
def test_every_allowed_format_opens(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = open_image(encode(two_tone(size=(64, 32)), kind, **options))
    assert (image.mode, image.size) == ("RGB", (64, 32))
    assert np.abs(np.array(image.getpixel((2, 2))) - (120, 0, 0)).max() < 12


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_modes_become_rgb(mode: str) -> None:
    source = two_tone(mode)
    image = open_image(encode(source))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(source.convert("RGB")))


def test_cmyk_jpeg_becomes_rgb() -> None:
    image = open_image(encode(two_tone(size=(64, 32)).convert("CMYK"), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert np.abs(np.array(image.getpixel((2, 2))) - (120, 0, 0)).max() < 20


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    image = open_image(encode(Image.fromarray(values)))
    assert [image.getpixel((x, 0))[0] for x in range(5)] == [0, 1, 1, 128, 255]  # type: ignore[index]


def test_sixteen_bit_pictures_of_many_bands_take_no_wide_copy() -> None:
    values = np.arange(1000 * 1000, dtype=np.uint32).reshape(1000, 1000).astype(np.uint16)
    data = encode(Image.fromarray(values))
    tracemalloc.start()
    image = open_image(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
    expected = ((values.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(image)[:, :, 1], expected)


def test_sixteen_bit_transparency_is_white() -> None:
    row = b"\0" + struct.pack(">3H", 0, 1000, 65535)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 1, 16, 0, 0, 0, 0))
    data += png_chunk(b"tRNS", struct.pack(">H", 1000)) + png_chunk(b"IDAT", zlib.compress(row))
    image = open_image(data + png_chunk(b"IEND", b""))
    assert [image.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (255,) * 3, (255,) * 3]


def test_alpha_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    opened = open_image(encode(image))
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 0)) == (127, 127, 127)


@pytest.mark.parametrize("transparency", [0, b"\0\xff"])
def test_palette_transparency_is_laid_on_white(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    opened = open_image(encode(image, transparency=transparency))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (0, 0, 255)]


def test_grey_and_rgb_transparent_colours_are_white() -> None:
    for image, colour in ((Image.new("L", (1, 1), 7), 7), (Image.new("RGB", (1, 1), (1, 2, 3)), (1, 2, 3))):
        assert open_image(encode(image, transparency=colour)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert open_image(data).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: np.rot90(upright.T, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(encode(Image.fromarray(np.ascontiguousarray(stored)), exif=exif))
    np.testing.assert_array_equal(np.asarray(opened)[:, :, 0], upright)


def test_broken_exif_data_do_not_spoil_the_picture() -> None:
    opened = open_image(encode(two_tone(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage"))
    assert opened.size == (20, 10)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, I am a text file named .jpg",
        encode(two_tone(), "TIFF"),
        encode(two_tone(), "EPS"),
        encode(two_tone(), "ICO"),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"BM a text that starts like a bitmap",
    ],
    ids=["empty", "text", "tiff", "eps", "ico", "svg", "bm"],
)
def test_other_formats_are_refused_with_the_allowed_ones(data: bytes) -> None:
    with pytest.raises(ImageFormatError, match="PNG, JPEG, WEBP, GIF, BMP"):
        open_image(data)


@pytest.mark.parametrize("kind", DEFAULT_FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_images_are_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(BrokenImageError):
        open_image(data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_known_signature_with_a_broken_header_is_a_broken_image(kind: str) -> None:
    with pytest.raises(BrokenImageError):
        open_image(encode(two_tone(), kind)[:14])


@pytest.mark.parametrize("side", [8001, 9500, 20000, 2**31 - 1])
def test_the_declared_size_is_checked_before_memory_is_taken(side: int) -> None:
    tracemalloc.start()
    with pytest.raises(ImageTooLargeError, match="at most 64000000"):
        open_image(png_header(side, side))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_the_refusal_names_the_declared_size() -> None:
    with pytest.raises(ImageTooLargeError, match="400000000 pixels"):
        open_image(png_header(20000, 20000))


def test_webp_is_measured_before_pillow_opens_it() -> None:
    extended = bytearray(encode(two_tone(), "WEBP", lossless=True, exif=b"Exif\0\0MM"))
    assert extended[12:16] == b"VP8X"
    extended[24:30] = (16383).to_bytes(3, "little") * 2
    with pytest.raises(ImageTooLargeError, match="16384x16384"):
        open_image(bytes(extended))


@pytest.mark.parametrize(
    "options", [{"lossless": True}, {"lossless": False}, {"lossless": True, "exif": b"Exif\0\0"}]
)
def test_webp_sizes_of_all_three_kinds_are_read_from_the_header(options: dict[str, object]) -> None:
    data = encode(two_tone(size=(300, 200)), "WEBP", **options)
    assert open_image(data, max_pixels=60_000).size == (300, 200)
    with pytest.raises(ImageTooLargeError, match="300x200"):
        open_image(data, max_pixels=59_999)


def test_a_long_thin_image_is_refused() -> None:
    with pytest.raises(ImageTooLargeError, match=f"at most {MAX_SIDE} pixels a side"):
        open_image(png_header(MAX_SIDE + 1, 1))


def test_the_limit_counts_pixels_inclusively() -> None:
    data = encode(two_tone(size=(10, 10)))
    assert open_image(data, max_pixels=100).size == (10, 10)
    with pytest.raises(ImageTooLargeError, match="10x10 = 100 pixels; at most 99"):
        open_image(data, max_pixels=99)


SEEDS = [encode(two_tone(), kind) for kind in DEFAULT_FORMATS]


def test_threads_agree_and_pillow_keeps_its_settings() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    inputs = SEEDS * 8
    alone = [np.asarray(open_image(data)) for data in inputs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: np.asarray(open_image(data)), inputs))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
