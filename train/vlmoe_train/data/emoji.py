"""Emoji drawings and their CLDR names: retrieval, tested on a drawing style that training never sees.

train: Noto, OpenMoji, Fluent     val: Fluent (drop it from train to select a model)     test: Twemoji
"""

from pathlib import Path

import numpy as np

from vlmoe_model.config import ImageSpec
from vlmoe_model.images import prepare
from vlmoe_train.data import drawings
from vlmoe_train.data.cache import cached
from vlmoe_train.data.samples import Samples, Split

_STYLES_OF: dict[Split, tuple[str, ...]] = {
    "train": ("noto", "openmoji", "fluent"),
    "val": ("fluent",),
    "test": ("twemoji",),
}


def load(root: Path, split: Split, spec: ImageSpec, *, held_out_style: str | None = None) -> Samples:
    """One split; a row is one drawing, its text and target the concept's caption, its group the style.

    Args:
        root: data directory.
        split: "val" is a style that train has too, unless it is held out.
        spec: the head's preprocessing.
        held_out_style: a style to leave out of train, so that val can select a model.

    Raises:
        DataError: not fetched, or a file is damaged.
        ValueError: train has no such style.
    """
    styles = _STYLES_OF[split]
    if held_out_style is not None and split == "train":
        if held_out_style not in styles:
            raise ValueError(f"held_out_style must be one of {', '.join(styles)}, got {held_out_style!r}")
        styles = tuple(style for style in styles if style != held_out_style)
    return cached(
        root,
        "emoji",
        split,
        spec,
        lambda: _build(root, styles, spec),
        code=(__file__, str(drawings.__file__)),
        options=" ".join(styles),
    )


def concept_tags(root: Path) -> tuple[tuple[str, ...], ...]:
    """The keywords of each concept, in the order of the labels."""
    return tuple(concept.tags for concept in drawings.concepts(root))


def _build(root: Path, styles: tuple[str, ...], spec: ImageSpec) -> Samples:
    known = drawings.concepts(root)
    rows = []
    for style in styles:
        files = drawings.drawing_files(root, style)
        rows += [(i, style, files[concept.code]) for i, concept in enumerate(known) if concept.code in files]
    images = np.empty((len(rows), spec.size, spec.size, 3), np.uint8)
    for row, (_, _, path) in enumerate(rows):
        images[row] = prepare(drawings.on_white(drawings.read_drawing(path)), spec)
    labels = tuple(concept.caption for concept in known)
    return Samples(
        images=images,
        image_index=np.arange(len(rows)),
        texts=tuple(labels[concept] for concept, _, _ in rows),
        targets=np.array([concept for concept, _, _ in rows], np.int64),
        labels=labels,
        groups=tuple(style for _, style, _ in rows),
    )
