"""easy-VQA: questions about one coloured shape on a plain ground, the official split.

val is a fixed slice of the official training images, with all their questions.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from vlmoe_model.config import ImageSpec
from vlmoe_model.images import prepare
from vlmoe_train.data.cache import cached
from vlmoe_train.data.fetch import package_dir
from vlmoe_train.data.samples import DataError, Samples, Split

LABELS = (
    "black",
    "blue",
    "brown",
    "circle",
    "gray",
    "green",
    "no",
    "rectangle",
    "red",
    "teal",
    "triangle",
    "yellow",
    "yes",
)

# of every 40 images the first 3 are val: 300 of 4,000
_VAL_EVERY = 40
_VAL_KEPT = 3


def load(root: Path, split: Split, spec: ImageSpec) -> Samples:
    """One split; groups are "yes-no", "shape" and "color".

    Raises:
        DataError: not fetched, or a file is damaged.
    """
    return cached(root, "easy_vqa", split, spec, lambda: _build(root, split, spec), code=(__file__,))


def _build(root: Path, split: Split, spec: ImageSpec) -> Samples:
    folder = package_dir(root, "easy-vqa") / "easy_vqa" / "data" / ("test" if split == "test" else "train")
    try:
        rows = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
        chosen = [
            (str(question), LABELS.index(answer), int(image))
            for question, answer, image in rows
            if split == "test" or (split == "val") == _is_val(int(image))
        ]
        numbers = sorted({image for _, _, image in chosen})
        images = np.empty((len(numbers), spec.size, spec.size, 3), np.uint8)
        for place, number in enumerate(numbers):
            with Image.open(folder / "images" / f"{number}.png") as image:
                images[place] = prepare(image.convert("RGB"), spec)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder}: {error}") from error
    place_of = {number: place for place, number in enumerate(numbers)}
    return Samples(
        images=images,
        image_index=np.array([place_of[image] for _, _, image in chosen], np.int64),
        texts=tuple(question for question, _, _ in chosen),
        targets=np.array([target for _, target, _ in chosen], np.int64),
        labels=LABELS,
        groups=tuple(_kind(question, LABELS[target]) for question, target, _ in chosen),
    )


def _is_val(image: int) -> bool:
    return image % _VAL_EVERY < _VAL_KEPT


def _kind(question: str, answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes-no"
    return "color" if "color" in question else "shape"
