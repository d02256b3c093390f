import numpy as np
import pytest

from vlmoe_model.inputs import Example, Job
from vlmoe_serve.batching.ticket import Outcome, Work


@pytest.mark.parametrize(
    ("size", "length", "tokens"),
    [(None, 7, 7), (8, None, 5), (8, 7, 12)],
)
def test_work_counts_patches_and_text_as_one_sequence(
    size: int | None, length: int | None, tokens: int
) -> None:
    image = None if size is None else np.zeros((size, size, 3), np.uint8)
    text = None if length is None else np.zeros(length, np.int32)
    assert Work.of(Job("head", Example(image, text)), patch_size=4) == Work(tokens, tokens**2)


def test_work_adds_and_subtracts() -> None:
    assert Work(3, 9) + Work(2, 4) - Work(3, 9) == Work(2, 4)


def test_an_outcome_in_parts_keeps_the_order_and_tells_the_whole_story() -> None:
    first, second, third = (np.array([value], np.float32) for value in (1, 2, 3))
    parts = [Outcome((first, second), 5.0, 2.0, 70), Outcome((third,), 9.0, 3.0, 40)]
    whole = Outcome.merged(parts)
    assert [float(output[0]) for output in whole.outputs] == [1, 2, 3]
    assert (whole.queue_ms, whole.forward_ms, whole.batch_tokens) == (9.0, 5.0, 70)


def test_an_outcome_in_one_part_is_that_part() -> None:
    part = Outcome((np.zeros(1, np.float32),), 5.0, 2.0, 70)
    assert Outcome.merged([part]) is part
