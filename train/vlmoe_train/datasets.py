"""The data sets a recipe can name. A new one is one loader and one line; a user's own is a JSONL file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlmoe_model.config import ImageSpec
from vlmoe_train.data import easy_vqa, emoji, fashion_mnist, jsonl, scenes
from vlmoe_train.data.samples import Samples

DATASETS: Mapping[str, Callable[..., Samples]] = {
    "fashion_mnist": fashion_mnist.load,
    "easy_vqa": easy_vqa.load,
    "emoji": emoji.load,
    "scenes": scenes.load,
}


def load_samples(name: str, root: Path, split: str, spec: ImageSpec | None, **options: Any) -> Samples:
    """One split of a data set.

    Args:
        name: one of `DATASETS`, or a .jsonl file below `root`; `{split}` in its name stands for the split.
        root: data directory.
        split: "train", "val" or "test".
        spec: preprocessing of the head; None for a head that takes only text.
        options: passed to the loader.

    Raises:
        DataError: not fetched, or damaged.
        ValueError: no data set of that name, or one of images for a head that takes none.
    """
    if name.endswith(".jsonl"):
        return jsonl.load(root / name.replace("{split}", split), spec, **options)
    if name not in DATASETS:
        raise ValueError(f"data must be one of {', '.join(DATASETS)}, or a .jsonl file, got {name!r}")
    if spec is None:
        raise ValueError(f"data set {name!r} needs a head that takes images")
    return DATASETS[name](root, split, spec, **options)
