from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vlmoe_model.config import ImageSpec
from vlmoe_train.data.emoji import concept_tags, load
from vlmoe_train.data.scene_language import NOUNS

# drawings of the nouns of scenes; two more captions are in some styles only
NUM = len(NOUNS)
SPEC = ImageSpec(size=16, crop="content")


def test_styles_of_the_splits(data_root: Path) -> None:
    train, val, test = (load(data_root, split, SPEC) for split in ("train", "val", "test"))
    assert Counter(train.groups) == {"noto": NUM + 2, "openmoji": NUM + 2, "fluent": NUM + 1}
    assert Counter(val.groups) == {"fluent": NUM + 1}
    assert Counter(test.groups) == {"twemoji": NUM + 1}
    assert train.labels == val.labels == test.labels
    assert len(train.labels) == NUM + 2


def test_rows_are_drawings_of_their_caption(data_root: Path) -> None:
    train, test = (load(data_root, split, SPEC) for split in ("train", "test"))
    assert all(text == train.labels[target] for text, target in zip(train.texts, train.targets, strict=True))
    # the same concept has the same colour in every style; it fills the box that is cut out
    centre = test.images[:, 8, 8].astype(int)
    for row, target in enumerate(test.targets):
        others = train.images[train.image_index[train.targets == target], 8, 8].astype(int)
        assert np.abs(others - centre[row]).max() <= 2


def test_a_style_can_be_held_out_of_train(data_root: Path) -> None:
    train = load(data_root, "train", SPEC, held_out_style="fluent")
    assert set(train.groups) == {"noto", "openmoji"}
    assert len(load(data_root, "val", SPEC, held_out_style="fluent")) == NUM + 1
    with pytest.raises(ValueError, match="held_out_style must be one of noto, openmoji, fluent, got 'apple'"):
        load(data_root, "train", SPEC, held_out_style="apple")


def test_tags_follow_the_labels(data_root: Path) -> None:
    labels = load(data_root, "test", SPEC).labels
    tags = concept_tags(data_root)
    assert len(tags) == len(labels)
    assert tags[labels.index("waving hand")] == (f"tag {NUM}", "thing")
