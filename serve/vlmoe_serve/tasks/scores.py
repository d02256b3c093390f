"""From a head's numbers to ranked probabilities."""

import numpy as np
import numpy.typing as npt


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities that sum to one."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(shifted / shifted.sum())


def best(probabilities: npt.NDArray[np.float64], top_k: int) -> list[tuple[int, float]]:
    """The `top_k` best (index, probability), best first; equal ones by index; all where there are fewer."""
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return [(int(i), float(probabilities[i])) for i in order]
