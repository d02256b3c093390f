import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from vlmoe_client._images import Picture


def sent(source) -> bytes:
    return base64.b64decode(Picture(source).to_string(), validate=True)


def test_bytes_arrive_unchanged_however_they_are_held(tmp_path: Path):
    data = b"any bytes: decoding is the server's"
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with open(path, "rb") as file:
        assert sent(file) == data
    for source in (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data)):
        assert sent(source) == data


@pytest.mark.parametrize("url", ["http://h/a.png", "https://h/a.png", "data:image/png;base64,AA=="])
def test_urls_are_sent_as_they_are(url):
    assert Picture(url).to_string() == url


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pil_images_lose_nothing(mode):
    image = Image.linear_gradient("L").resize((9, 7)).convert(mode)
    decoded = Image.open(io.BytesIO(sent(image)))
    assert decoded.size == (9, 7)
    assert decoded.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "F"])
def test_modes_that_png_lacks_become_rgb(mode):
    image = Image.new("RGB", (3, 2), (250, 10, 10)).convert("L" if mode == "F" else mode).convert(mode)
    decoded = Image.open(io.BytesIO(sent(image)))
    assert decoded.mode == "RGB"
    assert decoded.tobytes() == image.convert("RGB").tobytes()


def test_a_turned_photo_is_sent_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, "JPEG", exif=exif)
    assert Image.open(io.BytesIO(sent(Image.open(buffer)))).size == (4, 8)


def test_what_is_no_image_is_refused(tmp_path: Path):
    with pytest.raises(TypeError, match="a path, bytes, a PIL image or a binary file, got int"):
        Picture(7).to_string()
    with pytest.raises(TypeError, match="binary mode"):
        Picture(io.StringIO("text")).to_string()
    with pytest.raises(ValueError, match=r"\(bytes\) is empty"):
        Picture(b"").to_string()
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png' is empty"):
        Picture(tmp_path / "empty.png").to_string()
