import numpy as np
import pytest

from vlmoe_train.data.samples import Samples


def make(**changes: object) -> Samples:
    fields: dict[str, object] = {
        "images": np.zeros((2, 4, 4, 3), np.uint8),
        "image_index": np.array([0, 1, 1, -1]),
        "texts": ("a", "b", "c", "d"),
        "targets": np.array([0, 1, 0, 1]),
        "labels": ("no", "yes"),
        "groups": ("", "x", "", "x"),
    }
    return Samples(**{**fields, **changes})


def test_rows_keeps_images_and_order() -> None:
    samples = make()
    chosen = samples.rows(np.array([3, 1]))
    assert len(chosen) == 2
    assert chosen.texts == ("d", "b")
    assert chosen.image_index.tolist() == [-1, 1]
    assert chosen.targets.tolist() == [1, 1]
    assert chosen.groups == ("x", "x")
    assert chosen.images is samples.images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": ("a",)}, "rows disagree: 1 texts, 4"),
        ({"image_index": np.array([0, 1, 2, 0])}, r"image_index must lie in \[-1, 1\]"),
        ({"targets": np.array([0, 1, 2, 0])}, r"targets must lie in \[-1, 1\]"),
        ({"targets": np.array([0, 1, -2, 0])}, r"targets must lie in \[-1, 1\]"),
    ],
)
def test_disagreeing_parts_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_no_rows_is_allowed() -> None:
    empty = make(image_index=np.zeros(0, np.int64), texts=(), targets=np.zeros(0, np.int64), groups=())
    assert len(empty) == 0
