import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from vlmoe_model.config import ImageSpec
from vlmoe_train.data.samples import DataError
from vlmoe_train.data.scene_language import LABELS, NOUNS, Placed
from vlmoe_train.data.scenes import CANVAS, load, read_sprites, render

SPEC = ImageSpec(size=16)


def test_train_has_as_many_scenes_as_asked_for(data_root: Path) -> None:
    train = load(data_root, "train", SPEC, num_train=30)
    assert train.images.shape == (30, 16, 16, 3)
    assert set(train.image_index) == set(range(30))
    assert 4 * 30 <= len(train) <= 9 * 30
    assert train.labels == LABELS
    assert train.targets.min() >= 0


def test_a_larger_train_split_starts_with_the_smaller(data_root: Path) -> None:
    small, large = (load(data_root, "train", SPEC, num_train=count) for count in (5, 30))
    assert (large.images[:5] == small.images).all()
    assert large.texts[: len(small)] == small.texts


def test_splits_differ_and_are_of_fixed_size(data_root: Path) -> None:
    splits = [load(data_root, split, SPEC) for split in ("val", "test", "test_unseen")]
    assert [len(split.images) for split in splits] == [1_000] * 3
    assert len({split.texts for split in splits}) == 3
    assert {split.labels for split in splits} == {LABELS}


def test_objects_are_painted_into_their_cells(data_root: Path) -> None:
    sprites = read_sprites(data_root, ("noto", "fluent"))
    assert set(sprites) == set(NOUNS)
    assert {len(styles) for styles in sprites.values()} == {2}
    for row in range(3):
        for column in range(3):
            canvas = np.asarray(render(random.Random(row), (Placed("dog", column, row),), sprites))
            assert canvas.shape == (CANVAS, CANVAS, 3)
            differs = (canvas != canvas[0 if row else -1, 0 if column else -1]).any(axis=2)
            rows, columns = np.nonzero(differs)
            assert row * CANVAS // 3 <= rows.min() <= rows.max() < (row + 1) * CANVAS / 3
            assert column * CANVAS // 3 <= columns.min() <= columns.max() < (column + 1) * CANVAS / 3


def test_a_missing_drawing_is_named(tmp_path: Path, data_root: Path) -> None:
    for name in ("emojibase", "twemoji"):
        shutil.copytree(data_root / "raw" / name, tmp_path / "raw" / name)
    next((tmp_path / "raw/twemoji/package/img/twitter/64").glob("1f400.png")).unlink()
    with pytest.raises(DataError, match="no drawing of 'dog face' in the styles twemoji"):
        read_sprites(tmp_path, ("twemoji",))
