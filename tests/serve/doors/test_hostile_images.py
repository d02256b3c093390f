"""Pictures made to hurt: every one is answered by an error of the caller's or by a picture, and memory stays flat."""

import base64
import concurrent.futures
import io
import struct
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from ..waiting import PATIENCE_S

FINE, BROKEN, TOO_LARGE, OTHER = {200}, {400}, {413}, {415}


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, data=b"", depth=8, colour=2, extra=b""):
    """A PNG whose header says what it likes and whose data are what they are."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(num_bytes):
    """That many zeros, compressed a thousandfold."""
    packer = zlib.compressobj(9)
    whole, rest = divmod(num_bytes, 2**20)
    parts = [packer.compress(bytes(2**20)) for _ in range(whole)]
    return b"".join(parts) + packer.compress(bytes(rest)) + packer.flush()


def gif(width, height, frame=(1, 1)):
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00\x3b"
    return head + image


def bmp(width, height, offset=54):
    head = b"BM" + struct.pack("<IHHI", 100, 0, 0, offset)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(46)


def webp(width, height):
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + struct.pack("<I", width - 1)[:3]
    body += struct.pack("<I", height - 1)[:3]
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def jpeg_of_size(width, height):
    data = encode(Image.new("RGB", (16, 16)), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def hostile():
    """(name, bytes, allowed statuses)."""
    picture = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    good = {kind: encode(noise, kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP")}
    progressive = encode(noise, "JPEG", progressive=True)
    scan = progressive.index(b"\xff\xda")
    text_bomb = chunk(b"zTXt", b"k\0\0" + zeros(100 * 2**20))
    yield "empty", b"", {400, 415, 422}
    yield "largest allowed, all zeros", png(8000, 8000, zeros(8000 * 24_001)), FINE
    yield "largest allowed, see-through", png(8000, 8000, zeros(8000 * 32_001), 8, 6), FINE
    yield "largest allowed, grey of 16 bits", png(8000, 8000, zeros(8000 * 16_001), 16, 0), FINE
    yield "one bit a pixel", png(8000, 8000, zeros(8000 * 1001), 1, 0), FINE
    yield "declares gigapixels", png(50_000, 50_000, zeros(2**20)), TOO_LARGE
    yield "declares 2^31", png(2**31 - 1, 2**31 - 1), TOO_LARGE | BROKEN
    yield "long and thin", png(2_000_000, 1, zeros(6_000_001)), TOO_LARGE
    yield "no width", png(0, 10), BROKEN
    yield "more data than pixels", png(10, 10, zeros(200 * 2**20)), FINE | BROKEN
    yield "fewer data than pixels", png(4000, 4000, zlib.compress(b"\0" * 100)), BROKEN
    yield (
        "a text that unpacks to 100 MB",
        png(10, 10, zlib.compress(bytes(310)), extra=text_bomb),
        FINE | BROKEN,
    )
    yield "GIF canvas", gif(60_000, 60_000), TOO_LARGE
    yield "GIF frame over its canvas", gif(1, 1, (60_000, 60_000)), TOO_LARGE | BROKEN
    yield "BMP", bmp(60_000, 60_000), TOO_LARGE
    yield "BMP upside down and huge", bmp(30_000, -(2**31)), TOO_LARGE | BROKEN | OTHER
    yield "BMP whose pixels lie elsewhere", bmp(10, 10, 2**31), BROKEN | OTHER
    yield "WebP canvas", webp(16_000, 16_000), TOO_LARGE
    yield "WebP of nothing", webp(10, 10), BROKEN
    yield "JPEG", jpeg_of_size(65_000, 65_000), TOO_LARGE
    yield "JPEG larger than its data", jpeg_of_size(7000, 7000), FINE | BROKEN
    yield "endless scans", progressive[:scan] + progressive[scan:-2] * 200, BROKEN
    yield "endless comments", good["JPEG"][:2] + b"\xff\xfe\0\2" * 300_000 + good["JPEG"][2:], BROKEN
    for kind in ("TIFF", "EPS", "ICO", "PDF", "PPM", "TGA", "ICNS", "JPEG2000", "SGI", "PCX", "DDS", "AVIF"):
        if kind in Image.SAVE:
            yield kind, encode(picture.resize((64, 64)), kind), OTHER
    yield "SVG", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", OTHER
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n", OTHER
    yield "ZIP", b"PK\x03\x04" + bytes(100), OTHER
    yield "a program", b"\x7fELF" + bytes(1000), OTHER
    for kind, data in good.items():
        for share in (0.1, 0.5, 0.9):
            yield f"{kind} cut at {share}", data[: int(len(data) * share)], FINE | BROKEN | OTHER
        damaged = bytearray(data)
        damaged[len(data) // 3 : len(data) // 3 + 40] = bytes(40)
        yield f"{kind} with a hole", bytes(damaged), FINE | BROKEN | OTHER
        yield f"{kind} and a megabyte more", data + b"\xff" * 2**20, FINE | BROKEN


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files, and what each may be answered with."""
    path = tmp_path_factory.mktemp("hostile")
    Image.init()
    allowed = {}
    for number, (name, data, statuses) in enumerate(hostile()):
        file = path / f"{number:03}"
        file.write_bytes(data)
        allowed[file] = (name, statuses)
    return allowed


def resident_mb(pid, field="VmRSS"):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


@pytest.mark.slow
def test_a_folder_of_hostile_images_costs_neither_an_error_of_ours_nor_memory(start, folder):
    server = start("--cache-mb", "8", "--max-queue-ms", "600000")
    assert len(folder) > 50
    fine = {"text": "a cat"}
    before = server.client.post("/embed", json=fine).json()
    before_mb = resident_mb(server.process.pid)

    def ask(file):
        image = base64.b64encode(file.read_bytes()).decode()
        return httpx.post(f"{server.url}/embed", json={"image": image}, timeout=PATIENCE_S)

    wrong = []
    for _ in range(2):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for file, answer in zip(folder, pool.map(ask, folder), strict=True):
                name, statuses = folder[file]
                if answer.status_code not in statuses:
                    wrong.append((name, answer.status_code, answer.text[:200]))
                elif answer.status_code != 200:
                    assert set(answer.json()["error"]) == {"code", "message", "param"}, name
                    assert answer.json()["error"]["param"] == "image", name
    assert wrong == []
    first_mb = resident_mb(server.process.pid)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, folder))
    # the same again: what is kept does not grow, and no moment took more than 16 bytes a pixel of the largest picture
    assert resident_mb(server.process.pid) - first_mb < 50
    assert resident_mb(server.process.pid, "VmHWM") - before_mb < 16 * 64
    assert server.client.post("/embed", json=fine).json() == before
    assert not server.tracebacks
    assert server.end() == 0
