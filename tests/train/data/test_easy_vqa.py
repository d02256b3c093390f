import shutil
from pathlib import Path

import pytest

from vlmoe_model.config import ImageSpec
from vlmoe_train.data.easy_vqa import LABELS, load
from vlmoe_train.data.samples import DataError

SPEC = ImageSpec(size=8)


def test_val_is_a_slice_of_the_training_images_with_all_their_questions(data_root: Path) -> None:
    train, val, test = (load(data_root, split, SPEC) for split in ("train", "val", "test"))
    # of 45 images, numbers 0, 1, 2, 40, 41, 42 are val
    assert (len(train.images), len(val.images), len(test.images)) == (39, 6, 6)
    assert (len(train), len(val), len(test)) == (117, 18, 18)
    assert train.labels == val.labels == test.labels == LABELS
    assert train.targets.min() >= 0


def test_rows_belong_together(data_root: Path) -> None:
    val = load(data_root, "val", SPEC)
    for row in range(len(val)):
        red, _, blue = val.images[val.image_index[row]].mean(axis=(0, 1))
        answer = val.labels[val.targets[row]]
        match val.groups[row]:
            case "color":
                assert answer == ("red" if red > blue else "blue")
            case "yes-no":
                assert answer == ("yes" if red > blue else "no")
            case group:
                assert (group, answer) == ("shape", "circle")


def test_a_missing_image_is_named(tmp_path: Path, data_root: Path) -> None:
    shutil.copytree(data_root / "raw" / "easy-vqa", tmp_path / "raw" / "easy-vqa")
    (tmp_path / "raw/easy-vqa/easy_vqa/data/test/images/3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png"):
        load(tmp_path, "test", SPEC)
