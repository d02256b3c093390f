import gzip
from pathlib import Path

import numpy as np
import pytest

from vlmoe_model.config import ImageSpec
from vlmoe_train.data.fashion_mnist import LABELS, load, read_idx
from vlmoe_train.data.samples import DataError

SPEC = ImageSpec(size=16)


def test_splits_are_the_official_ones_with_a_tail_of_train_as_val(data_root: Path) -> None:
    train, val, test = (load(data_root, split, SPEC) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (10, 2_000, 20)
    assert train.images.shape == (10, 16, 16, 3)
    # image n has label n % 10, and the later the label the brighter
    assert train.targets.tolist() == list(range(10))
    assert val.targets[:3].tolist() == [0, 1, 2]
    assert (np.diff(train.images.mean(axis=(1, 2, 3))) > 0).all()
    assert (train.images[..., 0] == train.images[..., 2]).all()
    assert train.labels == val.labels == test.labels == LABELS
    assert set(train.texts) == set(train.groups) == {""}


def test_missing_data_says_how_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="vlmoe data fetch"):
        load(tmp_path, "test", SPEC)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"plain", "gzip"),
        (gzip.compress(b"\0\0\x0d\1"), "not an IDX file"),
        (gzip.compress(b"\0\0\x08\1\0\0\0\5abc"), r"11 bytes do not hold an array of shape \(5,\)"),
        (gzip.compress(b"\0\0\x08\3\0\0"), "too short"),
        (gzip.compress(b"\0\0\x08\1\0\0\0\1a")[:-4], "end-of-stream"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.gz: .*{reason}"):
        read_idx(path)
