"""Keep a split's processed arrays as `.npz`, under a name that changes with everything they depend on.

No pickle: strings are stored as JSON in a byte array.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlmoe_model import images as image_code
from vlmoe_model.config import ImageSpec
from vlmoe_train.data.samples import Samples
from vlmoe_train.data.sources import package_fingerprint


def cached(
    root: Path,
    dataset: str,
    split: str,
    spec: ImageSpec,
    build: Callable[[], Samples],
    *,
    code: Sequence[str],
    options: str = "",
) -> Samples:
    """The samples from DIR/cache, built and stored when they are not there.

    Args:
        root: data directory.
        dataset: name in the table of data sets, whose packages' checksums are part of the key.
        split: name of the split.
        spec: the head's preprocessing; only what changes pixels before normalisation is part of the key.
        build: makes the samples.
        code: source files that decide the result; their contents are part of the key, so an edit of them
            is never answered with stale arrays.
        options: whatever else the result depends on.
    """
    digest = hashlib.sha256()
    for part in (package_fingerprint(dataset), str(spec.size), spec.resize, spec.crop, options):
        digest.update(part.encode() + b"\0")
    for file in (*code, str(image_code.__file__)):
        digest.update(Path(file).read_bytes())
    path = root / "cache" / f"{dataset}-{split}-{spec.size}-{digest.hexdigest()[:16]}.npz"
    if path.is_file():
        return _read(path)
    samples = build()
    _write(path, samples)
    return samples


def _write(path: Path, samples: Samples) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.npz")
    np.savez(
        part,
        images=samples.images,
        image_index=samples.image_index,
        texts=_pack(samples.texts),
        targets=samples.targets,
        labels=_pack(samples.labels),
        groups=_pack(samples.groups),
    )
    part.replace(path)


def _read(path: Path) -> Samples:
    with np.load(path) as arrays:
        return Samples(
            images=arrays["images"],
            image_index=arrays["image_index"],
            texts=_unpack(arrays["texts"]),
            targets=arrays["targets"],
            labels=_unpack(arrays["labels"]),
            groups=_unpack(arrays["groups"]),
        )


def _pack(texts: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(json.dumps(texts).encode(), np.uint8)


def _unpack(packed: npt.NDArray[np.uint8]) -> tuple[str, ...]:
    return tuple(json.loads(packed.tobytes()))
