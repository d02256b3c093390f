import numpy as np
import pytest

from vlmoe_train.evaluate.metrics import (
    accuracy,
    accuracy_by_group,
    image_to_text_ranks,
    recall_at,
    text_to_image_ranks,
)


def test_accuracy_compares_texts() -> None:
    assert accuracy(["a", "b", "c", "d"], ["a", "b", "x", "d"]) == 0.75


@pytest.mark.parametrize(("predicted", "wanted"), [([], []), (["a"], ["a", "b"])])
def test_accuracy_of_nothing_is_refused(predicted: list[str], wanted: list[str]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        accuracy(predicted, wanted)


def test_accuracy_by_group() -> None:
    found = accuracy_by_group(["a", "b", "c"], ["a", "x", "c"], ["two", "two", "one"])
    assert list(found.items()) == [("one", 1.0), ("two", 0.5)]
    assert accuracy_by_group(["a"], ["a"], [""]) == {}


def test_ranks_of_images() -> None:
    similarity = np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.3, 0.2, 0.1]])
    assert image_to_text_ranks(similarity, np.array([0, 1, 2])).tolist() == [0, 1, 2]


def test_ranks_of_captions_take_the_best_of_their_images() -> None:
    # images 0 and 1 are of caption 0, image 2 of caption 1
    similarity = np.array([[0.1, 0.5], [0.8, 0.6], [0.7, 0.2]])
    assert text_to_image_ranks(similarity, np.array([0, 0, 1])).tolist() == [0, 2]


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_a_model_that_cannot_tell_has_no_hit(value: float) -> None:
    similarity = np.full((4, 4), value)
    targets = np.arange(4)
    assert image_to_text_ranks(similarity, targets).tolist() == [3] * 4
    assert text_to_image_ranks(similarity, targets).tolist() == [3] * 4


def test_a_difference_in_the_last_bits_is_a_tie() -> None:
    similarity = np.array([[0.5 + 1e-9, 0.5], [0.1, 0.9]])
    assert image_to_text_ranks(similarity, np.array([0, 1])).tolist() == [1, 0]


def test_recall() -> None:
    ranks = np.array([0, 4, 5, 20])
    assert [recall_at(ranks, k) for k in (1, 5, 10)] == [0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match="at least one query"):
        recall_at(np.zeros(0, np.int64), 1)
