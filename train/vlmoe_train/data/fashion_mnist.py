"""Fashion-MNIST: 28x28 grey pictures of clothes, the official split; val is a fixed tail of train."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlmoe_model.config import ImageSpec
from vlmoe_model.images import prepare
from vlmoe_train.data.cache import cached
from vlmoe_train.data.fetch import package_dir
from vlmoe_train.data.samples import DataError, Samples, Split

LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_FOLDER = "usr/share/datasets/fashion-mnist"
_NUM_VAL = 2_000


def load(root: Path, split: Split, spec: ImageSpec) -> Samples:
    """One split: "test" is the official one, "val" the last 2,000 training images, "train" the others.

    Raises:
        DataError: not fetched, or a file is damaged.
    """
    return cached(root, "fashion_mnist", split, spec, lambda: _build(root, split, spec), code=(__file__,))


def _build(root: Path, split: Split, spec: ImageSpec) -> Samples:
    folder = package_dir(root, "fashion-mnist") / _FOLDER
    stem = "t10k" if split == "test" else "train"
    grey = read_idx(folder / f"{stem}-images-idx3-ubyte.gz")
    targets = read_idx(folder / f"{stem}-labels-idx1-ubyte.gz").astype(np.int64)
    if len(grey) != len(targets):
        raise DataError(f"{folder}: {len(grey)} images but {len(targets)} labels")
    part = {"train": slice(None, -_NUM_VAL), "val": slice(-_NUM_VAL, None), "test": slice(None)}[split]
    grey, targets = grey[part], targets[part]
    images = np.empty((len(grey), spec.size, spec.size, 3), np.uint8)
    for row, pixels in enumerate(grey):
        images[row] = prepare(Image.fromarray(pixels).convert("RGB"), spec)
    return Samples(
        images=images,
        image_index=np.arange(len(grey)),
        texts=("",) * len(grey),
        targets=targets,
        labels=LABELS,
        groups=("",) * len(grey),
    )


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The array in a gzipped IDX file of bytes.

    Raises:
        DataError: missing, damaged, or not IDX.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"{path}: not an IDX file of bytes")
    num_axes = content[3]
    if len(content) < 4 + 4 * num_axes:
        raise DataError(f"{path}: too short for an array of {num_axes} axes")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", count=num_axes, offset=4))
    if len(content) != 4 + 4 * num_axes + int(np.prod(shape)):
        raise DataError(f"{path}: {len(content)} bytes do not hold an array of shape {shape}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape)
