"""Two small worlds.

All packages of the table as tiny archives of the same layout, with a data directory fetched from them; and coloured
squares to classify, to ask about and to name, for the trainer.
"""

import dataclasses
import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw

from vlmoe_model.config import ImageSpec
from vlmoe_train import datasets
from vlmoe_train.data.fetch import fetch
from vlmoe_train.data.samples import Samples
from vlmoe_train.data.scene_language import CAPTION_OF
from vlmoe_train.data.sources import PACKAGES, Package

# captions beside the nouns of the scenes: one that only some styles have
CAPTIONS = (*dict.fromkeys(CAPTION_OF.values()), "waving hand", "keycap: 1")
NUM_FASHION_TRAIN = 2_010
NUM_FASHION_TEST = 20


def _tar(members: dict[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _wheel(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
    return buffer.getvalue()


def _deb(members: dict[str, bytes]) -> bytes:
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": _tar({"./control": b"Package: x\n"}, "w:xz"),
        "data.tar.xz": _tar({f"./{name}": content for name, content in members.items()}, "w:xz"),
    }
    packed = b"!<arch>\n"
    for name, content in parts.items():
        packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        packed += content + b"\n" * (len(content) % 2)
    return packed


def _idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), compresslevel=1)


def _picture(number: int, *, style: int, size: int, suffix: str) -> bytes:
    """A shape of the number's own colour and place, drawn a little differently a style."""
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    colour = (number * 53 % 200, number * 97 % 200, number * 31 % 200, 255)
    left, top = 1 + number % 3 * size // 8, 1 + number % 4 * size // 8
    draw.rectangle((left, top, size - 2 - style, size - 2 - number % 2), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, suffix, lossless=True)
    return buffer.getvalue()


def _code(number: int) -> str:
    return f"{0x1F400 + number:X}"


def _emojibase() -> dict[str, bytes]:
    rows = []
    for number, caption in enumerate(CAPTIONS):
        row = {"hexcode": _code(number), "label": caption, "tags": [f"tag {number}", "thing"]}
        if caption == "waving hand":
            row["skins"] = [{"hexcode": f"{_code(number)}-1F3FB", "label": f"{caption}: light skin tone"}]
        rows.append(row)
    return {"package/en/data.json": json.dumps(rows).encode(), "package/messages.json": b"{}"}


def _drawings(folder: str, suffix: str, style: int) -> dict[str, bytes]:
    files = {}
    for number, caption in enumerate(CAPTIONS):
        if caption == "keycap: 1" and style > 1:
            continue
        # styles disagree on writing the variation selector
        code = f"{_code(number).lower()}{'-fe0f' if style == 2 else ''}"
        if suffix == "svg":
            colour = f"rgb({number * 53 % 200},{number * 97 % 200},{number * 31 % 200})"
            shape = f'<rect x="9" y="{9 + number % 4 * 8}" width="50" height="30" fill="{colour}"/>'
            text = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">{shape}</svg>'
            files[f"{folder}/{code.upper()}.svg"] = text.encode()
        else:
            files[f"{folder}/{code}.{suffix}"] = _picture(number, style=style, size=24, suffix=suffix)
    files[f"{folder}/{_code(len(CAPTIONS) - 2).lower()}-1f3fb.{suffix}"] = b"a skin tone, never read"
    return files


def _easy_vqa() -> dict[str, bytes]:
    files = {"easy_vqa/easy_vqa.py": b"raise SystemExit"}
    for split, count in (("train", 45), ("test", 6)):
        rows = []
        for number in range(count):
            colour = ("red", "blue")[number % 2]
            image = Image.new("RGB", (64, 64), colour)
            buffer = io.BytesIO()
            image.save(buffer, "png")
            files[f"easy_vqa/data/{split}/images/{number}.png"] = buffer.getvalue()
            rows += [
                ["what color is the shape?", colour, number],
                ["is there a red shape?", "yes" if colour == "red" else "no", number],
                ["what shape is in the image?", "circle", number],
            ]
        files[f"easy_vqa/data/{split}/questions.json"] = json.dumps(rows).encode()
    return files


def _fashion_mnist() -> dict[str, bytes]:
    random = np.random.default_rng(0)
    files = {}
    for stem, count in (("train", NUM_FASHION_TRAIN), ("t10k", NUM_FASHION_TEST)):
        labels = np.arange(count) % 10
        images = random.integers(0, 64, (count, 28, 28)) + labels[:, None, None] * 19
        files[f"usr/share/datasets/fashion-mnist/{stem}-images-idx3-ubyte.gz"] = _idx(images)
        files[f"usr/share/datasets/fashion-mnist/{stem}-labels-idx1-ubyte.gz"] = _idx(labels)
    return files


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Package]]:
    """A folder of tiny archives, and the table of packages with their checksums."""
    folder = tmp_path_factory.mktemp("archives")
    contents = {
        "fashion-mnist": _deb(_fashion_mnist()),
        "easy-vqa": _wheel(_easy_vqa()),
        "emojibase": _tar(_emojibase(), "w:gz"),
        "noto": _tar(_drawings("package/img/google/64", "png", 0), "w:gz"),
        "openmoji": _tar(_drawings("package/color/svg", "svg", 1), "w:gz"),
        "fluent": _tar(_drawings("package/assets", "webp", 2), "w:gz"),
        "twemoji": _tar(_drawings("package/img/twitter/64", "png", 3), "w:gz"),
    }
    table = {}
    for name, package in PACKAGES.items():
        (folder / package.archive).write_bytes(contents[name])
        table[name] = dataclasses.replace(package, sha256=hashlib.sha256(contents[name]).hexdigest())
    return folder, table


@pytest.fixture(scope="session")
def data_root(packages: tuple[Path, dict[str, Package]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with every package of the table, tiny."""
    folder, table = packages
    root = tmp_path_factory.mktemp("data")
    fetch("demo", root, source=folder, say=lambda line: None, packages=table)
    return root


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
SQUARE_CAPTIONS = tuple(f"a {name} square" for name in COLOURS)


def squares(kind: str, size: int, num: int = 48) -> Samples:
    """`kind`: which target a picture has: its colour as a class, as an answer, or as a caption."""
    rng = np.random.default_rng(7)
    colours = rng.integers(0, 3, num)
    images = np.full((num, size, size, 3), 255, np.uint8)
    for image, colour in zip(images, colours, strict=True):
        x, y = rng.integers(0, size // 2, 2)
        image[y : y + size // 2, x : x + size // 2] = list(COLOURS.values())[colour]
    questions = tuple(("what colour is it?", "which colour is the square?")[i % 2] for i in range(num))
    texts = {
        "classes": ("",) * num,
        "answers": questions,
        "captions": tuple(SQUARE_CAPTIONS[c] for c in colours),
    }[kind]
    labels = SQUARE_CAPTIONS if kind == "captions" else tuple(COLOURS)
    return Samples(images, np.arange(num), texts, colours.astype(np.int64), labels, ("",) * num)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def square_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the data sets squares_classes, squares_answers and squares_captions to the table."""
    for kind in ("classes", "answers", "captions"):

        def load(root: Path, split: str, spec: ImageSpec, *, kind: str = kind) -> Samples:
            return squares(kind, spec.size)

        monkeypatch.setitem(datasets.DATASETS, f"squares_{kind}", load)


RECIPE = {
    "model": {
        "preset": "demo",
        "dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "ffn_dim": 24,
        "num_experts": 2,
        "moe_blocks": [1],
        "vl_start": 1,
        "vocab_size": 80,
        "image_size": 16,
        "patch_size": 8,
        "max_text": 16,
    },
    "steps": 8,
    "warmup_steps": 2,
    "lr": 0.003,
    "log_every": 2,
    "save_every": 4,
    "heads": [
        {"name": "classes", "task": "image_classification", "image": {"size": 16}, "pool": "mean"},
        {"name": "answers", "task": "vqa", "image": {"size": 16}, "max_text": 12},
        {
            "name": "captions",
            "task": "contrastive",
            "image": {"size": 16},
            "max_text": 12,
            "pool": "flatten",
            "embed_dim": 8,
        },
    ],
    "tasks": [
        {"data": "squares_classes", "head": "classes", "batch": 5, "augment": "flip"},
        {"data": "squares_answers", "head": "answers", "batch": 6},
        {"data": "squares_captions", "head": "captions", "batch": 7, "texts": 2, "augment": "drawing"},
    ],
}


@pytest.fixture
def recipe_file(tmp_path: Path, square_data: None) -> Path:
    path = tmp_path / "squares.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path
