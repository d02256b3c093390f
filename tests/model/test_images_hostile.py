import struct
import zlib
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlmoe_model.errors import BrokenImageError, InputError
from vlmoe_model.images import DEFAULT_FORMATS, open_image

PICTURE = Image.linear_gradient("L").resize((20, 10)).convert("RGB")


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG, JPEG, GIF = (encode(PICTURE, kind) for kind in ("PNG", "JPEG", "GIF"))
GIF_BLOCKS = 13 + 3 * 2 ** ((GIF[10] & 7) + 1)


@pytest.mark.parametrize(
    "data",
    [
        PNG[:33] + png_chunk(b"abCd", b"") * 200_000 + PNG[33:],
        PNG[:-12] + png_chunk(b"abCd", b"") * 200_000 + PNG[-12:],
        JPEG[:2] + b"\xff\xfe\0\2" * 200_000 + JPEG[2:],
        JPEG[:2] + b"\xff" * 400_000 + JPEG[2:],
        GIF[:GIF_BLOCKS] + b"\x21\xfe\0" * 200_000 + GIF[GIF_BLOCKS:],
    ],
    ids=["png-head", "png-tail", "jpeg-comments", "jpeg-padding", "gif-comments"],
)
def test_millions_of_empty_parts_are_refused(data: bytes) -> None:
    with pytest.raises(BrokenImageError, match="more than 200000 pieces"):
        open_image(data)


def test_a_bitmap_of_endless_runs_is_refused() -> None:
    side = 700
    runs = (b"\x01\x05" * side + b"\0\0") * side + b"\0\1"
    start = 54 + 1024
    header = b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start)
    header += struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    with pytest.raises(BrokenImageError, match="more than 200000 pieces"):
        open_image(header + bytes(1024) + runs)


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    progressive = encode(PICTURE, "JPEG", progressive=True)
    start = progressive.index(b"\xff\xda")
    empty = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x10\x00"
    with pytest.raises(BrokenImageError, match="scans; at most 100"):
        open_image(progressive[:start] + empty * 300 + progressive[start:])
    assert open_image(progressive).size == PICTURE.size


SEEDS = [encode(PICTURE, kind) for kind in DEFAULT_FORMATS]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8))
def test_damaged_bytes_give_an_image_or_an_input_error(data: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    with suppress(InputError):
        assert open_image(bytes(damaged), max_pixels=1_000_000).mode == "RGB"
