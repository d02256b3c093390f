import numpy as np

from vlmoe_train.data.samples import Samples
from vlmoe_train.evaluate.baselines import majority_by_group, question_lookup, subset, wanted_answers

LABELS = ("blue", "no", "red", "yes")


def rows(*found: tuple[str, str, str]) -> Samples:
    """Samples of (question, group, answer); an answer that is no label has the target -1."""
    return Samples(
        images=np.zeros((1, 2, 2, 3), np.uint8),
        image_index=np.zeros(len(found), np.int64),
        texts=tuple(text for text, _, _ in found),
        targets=np.array([LABELS.index(a) if a in LABELS else -1 for _, _, a in found], np.int64),
        labels=LABELS,
        groups=tuple(group for _, group, _ in found),
    )


TRAIN = rows(
    ("which?", "color", "red"),
    ("which?", "color", "blue"),
    ("which?", "color", "red"),
    ("red?", "yes-no", "yes"),
    ("blue?", "yes-no", "no"),
    ("blue?", "yes-no", "no"),
    ("blue?", "yes-no", "no"),
)


def test_question_lookup_falls_back_to_the_commonest_answer() -> None:
    test = rows(("which?", "color", "blue"), ("red?", "yes-no", "yes"), ("green?", "yes-no", "yes"))
    assert question_lookup(TRAIN, test) == ["red", "yes", "no"]


def test_majority_of_each_group() -> None:
    test = rows(("green?", "yes-no", "yes"), ("other?", "color", "blue"), ("x", "new", "red"))
    assert majority_by_group(TRAIN, test) == ["no", "red", "no"]


def test_ties_do_not_depend_on_the_order_of_rows() -> None:
    one = rows(("q", "", "red"), ("q", "", "blue"))
    other = rows(("q", "", "blue"), ("q", "", "red"))
    assert question_lookup(one, one) == question_lookup(other, one) == ["blue", "blue"]


def test_an_answer_that_is_no_label_is_never_met() -> None:
    assert wanted_answers(rows(("q", "", "red"), ("q", "", "green"))) == ["red", ""]


def test_a_subset_is_spread_over_the_rows() -> None:
    assert subset(TRAIN, None) is TRAIN
    assert subset(TRAIN, 7) is TRAIN
    assert subset(TRAIN, 3).texts == ("which?", "red?", "blue?")
    assert len(subset(TRAIN, 1)) == 1
