"""From a head's numbers to ranked probabilities."""

import numpy as np
import numpy.typing as npt


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities that sum to one."""
    scores: npt.NDArray[np.float64] = logits.astype(np.float64)
    scores -= scores.max()
    np.exp(scores, out=scores)
    scores /= scores.sum()
    return scores


def best(probabilities: npt.NDArray[np.float64], top_k: int) -> list[tuple[int, float]]:
    """The `top_k` best (index, probability), best first; equal ones by index; all where there are fewer."""
    order = (-probabilities).argsort(kind="stable")[:top_k]
    return list(zip(order.tolist(), probabilities[order].tolist(), strict=True))
