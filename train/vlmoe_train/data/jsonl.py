"""The general format for data of one's own: a JSONL file, with the images it names next to it.

    {"image": "photos/1.jpg", "question": "how many dogs are there?", "answer": "2"}   visual questions
    {"image": "photos/1.jpg", "label": "street"}                                       image classification
    {"text": "prices fell again", "label": "economy"}                                  text classification
    {"image": "photos/1.jpg", "caption": "two dogs on a beach"}                        image-text retrieval

`text` and `question` mean the same; `group` is optional and names a part of the rows to look at by itself.
Image paths are relative to the file's folder.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlmoe_model.config import ImageSpec
from vlmoe_model.errors import InputError
from vlmoe_model.images import load_image
from vlmoe_train.data.samples import DataError, Samples

_TARGETS = ("answer", "label", "caption")
_TEXTS = ("question", "text")
_KEYS = ("image", *_TEXTS, *_TARGETS, "group")


@dataclass(frozen=True, slots=True)
class _Row:
    image: str | None
    text: str
    target: str
    target_key: str
    group: str


def load(path: Path, spec: ImageSpec | None, *, labels: tuple[str, ...] | None = None) -> Samples:
    """Read a JSONL file and the images it names; blank lines are passed over.

    Args:
        path: the file.
        spec: the head's preprocessing, or None for a head that takes only text.
        labels: the labels to use; a target that is none of them becomes -1. None collects them from the file.

    Raises:
        DataError: names file and line.
    """
    rows = _read_rows(path)
    if not rows:
        raise DataError(f"{path}: no rows")
    known = labels if labels is not None else tuple(sorted({row.target for _, row in rows}))
    target_of = {label: target for target, label in enumerate(known)}
    images, place_of = _read_images(path, rows, spec)
    return Samples(
        images=images,
        image_index=np.array([-1 if r.image is None else place_of[r.image] for _, r in rows], np.int64),
        texts=tuple(row.text for _, row in rows),
        targets=np.array([target_of.get(row.target, -1) for _, row in rows], np.int64),
        labels=known,
        groups=tuple(row.group for _, row in rows),
    )


def _read_rows(path: Path) -> list[tuple[int, _Row]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    rows: list[tuple[int, _Row]] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = _parse(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{number}: {error}") from error
            if rows and row.target_key != rows[0][1].target_key:
                raise DataError(
                    f"{path}:{number}: has {row.target_key!r}, but line {rows[0][0]} "
                    f"has {rows[0][1].target_key!r}"
                )
            rows.append((number, row))
    return rows


def _parse(fields: Any) -> _Row:
    if not isinstance(fields, dict):
        raise ValueError(f"a row must be an object, got {type(fields).__name__}")
    for key, value in fields.items():
        if key not in _KEYS:
            raise ValueError(f"unknown key {key!r}; known are {', '.join(_KEYS)}")
        if not isinstance(value, str) or not value:
            raise ValueError(f"{key!r} must be a string that is not empty, got {value!r}")
    target_key = _only_one(fields, _TARGETS)
    if target_key is None:
        raise ValueError(f"needs one of {', '.join(_TARGETS)}")
    text_key = _only_one(fields, _TEXTS)
    if target_key == "caption" and text_key is not None:
        raise ValueError(f"a row with a caption takes no {text_key!r}")
    if "image" not in fields and (text_key is None or target_key == "caption"):
        raise ValueError("needs an image" if target_key == "caption" else "needs an image or a text")
    text = fields["caption"] if target_key == "caption" else fields.get(text_key or "", "")
    return _Row(fields.get("image"), text, fields[target_key], target_key, fields.get("group", ""))


def _only_one(fields: dict[str, str], keys: tuple[str, ...]) -> str | None:
    given = [key for key in keys if key in fields]
    if len(given) > 1:
        raise ValueError(f"takes only one of {', '.join(given)}")
    return given[0] if given else None


def _read_images(
    path: Path, rows: list[tuple[int, _Row]], spec: ImageSpec | None
) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], dict[str, int]]:
    place_of: dict[str, int] = {}
    prepared = []
    for number, row in rows:
        if row.image is None or row.image in place_of:
            continue
        if spec is None:
            raise DataError(f"{path}:{number}: has an image, but the head takes only text")
        try:
            prepared.append(load_image((path.parent / row.image).read_bytes(), spec))
        except (OSError, InputError) as error:
            raise DataError(f"{path}:{number}: {row.image}: {error}") from error
        place_of[row.image] = len(place_of)
    size = spec.size if spec is not None else 1
    return np.stack(prepared) if prepared else np.empty((0, size, size, 3), np.uint8), place_of
