import numpy as np
import pytest

from vlmoe_serve.tasks.scores import best, softmax


@pytest.mark.parametrize("logits", [[0.0], [1.0, 2.0, 3.0], [1e4, -1e4], [-1e30, 0.0], [88.0] * 100])
def test_probabilities_sum_to_one_however_large_the_logits(logits):
    probabilities = softmax(np.array(logits, np.float32))
    assert probabilities.sum() == pytest.approx(1.0)
    assert np.isfinite(probabilities).all()
    assert (np.argsort(-probabilities, kind="stable") == np.argsort(-np.array(logits), kind="stable")).all()


def test_the_best_come_first_and_ties_by_index():
    probabilities = np.array([0.2, 0.3, 0.2, 0.3])
    assert best(probabilities, 3) == [(1, 0.3), (3, 0.3), (0, 0.2)]
    assert len(best(probabilities, 99)) == 4
    assert len(best(probabilities, 10**30)) == 4
