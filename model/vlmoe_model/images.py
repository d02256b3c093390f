"""Bytes from anywhere -> a small RGB square. The same code prepares training images and requests.

    bytes --open_image--> PIL image, mode RGB --prepare(spec)--> uint8 [size, size, 3]
    bytes --load_image(spec)------------------------------------> uint8 [size, size, 3]

Use `load_image` where there is a file: a head may want its JPEGs decoded at a smaller scale, which `prepare` cannot
know any more. Nothing here changes Pillow's global state, so it is safe under threads.
"""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from vlmoe_model.config import ImageSpec
from vlmoe_model.content import content
from vlmoe_model.errors import BrokenImageError, ImageFormatError, ImageTooLargeError
from vlmoe_model.resizing import resized

DEFAULT_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
DEFAULT_MAX_PIXELS = 64_000_000
# Pillow's resize takes 32 bytes a source column: an image one pixel high could take gigabytes.
MAX_SIDE = 65_535
# Pillow walks through a file's parts in Python. Millions of empty parts would keep it busy for many seconds; a real
# picture of the largest size takes some ten thousand reads.
_MAX_READS = 200_000
# Every scan of a progressive JPEG goes over the whole picture, and an empty one takes a few bytes: a small file could
# keep the decoder busy for an hour. Encoders write about ten.
_MAX_SCANS = 100
_SCAN = b"\xff\xda"

# BMP is not listed: two letters are no proof that a file meant to be one.
_SIGNATURES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff", "GIF": b"GIF8"}
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Left around what is content.
_CONTENT_MARGIN = 0.02
_BAND = 64

Turn = Callable[[int], AbstractContextManager[None]]


def _no_turn(num_pixels: int) -> AbstractContextManager[None]:
    return nullcontext()


def load_image(
    data: bytes, spec: ImageSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS, turn: Turn = _no_turn
) -> npt.NDArray[np.uint8]:
    """The bytes of an image file as a head wants them: uint8 [size, size, 3].

    Raises:
        ImageFormatError, ImageTooLargeError, BrokenImageError: see `open_image`.
    """
    at_least = spec.size if spec.jpeg_draft else None
    return prepare(open_image(data, max_pixels=max_pixels, at_least=at_least, turn=turn), spec)


def open_image(
    data: bytes,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    at_least: int | None = None,
    turn: Turn = _no_turn,
) -> Image.Image:
    """Decode an image of an allowed format to an upright RGB image, transparency on white, first frame only.

    Args:
        data: the file.
        max_pixels: largest size that its header may declare.
        at_least: a JPEG may be decoded smaller, by 1/2, 1/4 or 1/8, if both sides keep this many pixels.
        turn: entered with the declared number of pixels for as long as they are decoded, so that a caller with many
            threads can bound the memory of all of them.

    Raises:
        ImageFormatError: not an image of a format in `DEFAULT_FORMATS`.
        ImageTooLargeError: the header declares more than `max_pixels`; nothing has been decoded.
        BrokenImageError: an allowed format whose bytes do not decode.
    """
    canvas = _webp_canvas(data)
    if canvas is not None:
        # Pillow's WebP plugin allocates the canvas when it opens the file, before its size can be asked for
        _check_size(canvas, max_pixels)
    try:
        image = Image.open(_Source(data), formats=DEFAULT_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\d+", str(error))
        count = pixels.group() if pixels else "too many"
        raise ImageTooLargeError(f"the image has {count} pixels; at most {max_pixels} are allowed") from error
    except (BrokenImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything on hostile bytes
        name = _signature(data)
        if name is not None:
            raise BrokenImageError(f"the image starts like {name} but its header is broken") from error
        raise ImageFormatError(
            f"not an image of an allowed format ({len(data)} bytes starting with {data[:8]!r}); "
            f"allowed are {', '.join(DEFAULT_FORMATS)}"
        ) from error
    with image:
        _check_size(image.size, max_pixels)
        kind = image.format or "image"
        try:
            if isinstance(image, JpegImageFile):
                _check_scans(data)
                if at_least is not None:
                    image.draft(None, (at_least, at_least))
            with turn(image.width * image.height):
                image.load()
                # Pillow may enlarge an animation's frame to its declared canvas while loading
                _check_size(image.size, max_pixels)
                return _upright(image, _to_rgb(image))
        except (ImageTooLargeError, BrokenImageError, MemoryError):
            raise
        except Exception as error:  # as above
            raise BrokenImageError(f"the {kind} image does not decode: {_reason(error)}") from error


def prepare(image: Image.Image, spec: ImageSpec) -> npt.NDArray[np.uint8]:
    """Crop and resize an RGB image to what a head wants: uint8 [size, size, 3].

    `crop="none"` resizes to the square without keeping the aspect, as the published evaluations do.
    """
    if image.mode != "RGB":
        raise ValueError(f"prepare takes an image of mode RGB, got {image.mode}")
    size = (spec.size, spec.size)
    if spec.crop == "none":
        return resized(image, size, spec.resize)
    (left, top, right, bottom), ground = content(image)
    width, height = right - left, bottom - top
    # resize first and pad after: padding a long thin image to a square first could take gigabytes
    scale = spec.size / (max(width, height) * (1 + 2 * _CONTENT_MARGIN))
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    left_margin, top_margin = (spec.size - inner[0]) // 2, (spec.size - inner[1]) // 2
    square = np.empty((spec.size, spec.size, 3), np.uint8)
    square[:] = ground
    square[top_margin : top_margin + inner[1], left_margin : left_margin + inner[0]] = resized(
        image, inner, spec.resize, (left, top, right, bottom)
    )
    return square


class _Source(BytesIO):
    """The bytes of one image, to be read in a limited number of pieces."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads_left = _MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise BrokenImageError(f"the image consists of more than {_MAX_READS} pieces")
        return super().read(size)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BrokenImageError(f"the image is {width}x{height}: it has no pixels")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image is {width}x{height} = {width * height} pixels; at most {max_pixels} are allowed"
        )
    if max(width, height) > MAX_SIDE:
        raise ImageTooLargeError(
            f"the image is {width}x{height}; at most {MAX_SIDE} pixels a side are allowed"
        )


def _check_scans(jpeg: bytes) -> None:
    scans = jpeg.count(_SCAN)
    if scans > _MAX_SCANS:
        raise BrokenImageError(f"the JPEG image has {scans} scans; at most {_MAX_SCANS} are allowed")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB, transparency on white."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _sixteen_bit(image)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA", "P") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        flat = Image.new("RGB", rgba.size, (255, 255, 255))
        flat.paste(rgba, mask=rgba.getchannel("A"))
        return flat
    # copy, because the opened file's image is closed by the caller
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _sixteen_bit(image: Image.Image) -> Image.Image:
    # scaled by hand: Pillow's own conversion clips, which turns most 16-bit pictures white
    values = np.asarray(image)
    grey = np.empty(values.shape, np.uint8)
    transparent = image.info.get("transparency")
    # band by band: the wide numbers of a whole picture would take twenty times its memory
    for start in range(0, len(values), _BAND):
        band = values[start : start + _BAND].astype(np.int64).clip(0, 65535)
        grey[start : start + _BAND] = (band * 255 + 32767) // 65535
        if isinstance(transparent, int):
            grey[start : start + _BAND][band == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _upright(source: Image.Image, rgb: Image.Image) -> Image.Image:
    try:
        orientation = source.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # broken EXIF data spoil no picture: it is used as stored
        return rgb
    # a hostile tag may be of any type, unhashable ones included
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return rgb if turn is None else rgb.transpose(turn)


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP header declares; None for anything that is no WebP header."""
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8 ":
        width, height = int.from_bytes(data[26:28], "little"), int.from_bytes(data[28:30], "little")
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _signature(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for name, start in _SIGNATURES.items() if data.startswith(start)), None)


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
