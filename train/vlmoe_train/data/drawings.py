"""Emoji drawings: which concepts there are, and the file of each concept in each drawing style.

A concept is a base emoji, without skin tones; its caption is its CLDR name.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import resvg_py
from PIL import Image

from vlmoe_train.data.fetch import package_dir
from vlmoe_train.data.samples import DataError

# style, which is also the package's name -> folder and extension of its drawings
STYLES = {
    "noto": ("package/img/google/64", ".png"),
    "openmoji": ("package/color/svg", ".svg"),
    "fluent": ("package/assets", ".webp"),
    "twemoji": ("package/img/twitter/64", ".png"),
}

_SVG_SIZE = 128


@dataclass(frozen=True, slots=True)
class Concept:
    """One base emoji: its code points in hexadecimal, its CLDR name, its keywords."""

    code: str
    caption: str
    tags: tuple[str, ...]


def concepts(root: Path) -> tuple[Concept, ...]:
    """All base emoji, sorted by caption.

    Raises:
        DataError: not fetched, or the file is damaged.
    """
    path = package_dir(root, "emojibase") / "package" / "en" / "data.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = [Concept(_code(e["hexcode"]), e["label"], tuple(e.get("tags", ()))) for e in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: {error}") from error
    return tuple(sorted(found, key=lambda concept: (concept.caption, concept.code)))


def drawing_files(root: Path, style: str) -> dict[str, Path]:
    """Code of an emoji -> its drawing in one style, skin tones included.

    Raises:
        DataError: not fetched.
    """
    folder, extension = STYLES[style]
    directory = package_dir(root, style) / folder
    return {_code(path.stem): path for path in sorted(directory.glob(f"*{extension}"))}


def read_drawing(path: Path) -> Image.Image:
    """A drawing with its transparency, as RGBA; vector drawings are rendered.

    Raises:
        DataError: the file does not decode.
    """
    try:
        if path.suffix == ".svg":
            png = resvg_py.svg_to_bytes(svg_path=str(path), width=_SVG_SIZE, height=_SVG_SIZE)
            return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        with Image.open(path) as image:
            return image.convert("RGBA")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error


def on_white(drawing: Image.Image) -> Image.Image:
    """An RGBA drawing on a white ground, as RGB."""
    ground = Image.new("RGBA", drawing.size, (255, 255, 255, 255))
    ground.alpha_composite(drawing)
    return ground.convert("RGB")


def _code(hexcode: str) -> str:
    # fe0f only asks for the coloured form, and the packages disagree on writing it
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")
