"""The data sets a recipe can name. A new one is one loader and one line."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlmoe_model.config import ImageSpec
from vlmoe_train.data import easy_vqa, emoji, fashion_mnist, scenes
from vlmoe_train.data.samples import Samples

DATASETS: Mapping[str, Callable[..., Samples]] = {
    "fashion_mnist": fashion_mnist.load,
    "easy_vqa": easy_vqa.load,
    "emoji": emoji.load,
    "scenes": scenes.load,
}


def load_samples(name: str, root: Path, split: str, spec: ImageSpec | None, **options: Any) -> Samples:
    """One split of a data set.

    Raises:
        DataError: not fetched, or damaged.
        ValueError: no data set of that name.
    """
    if name not in DATASETS:
        raise ValueError(f"data must be one of {', '.join(DATASETS)}, got {name!r}")
    return DATASETS[name](root, split, spec, **options)
