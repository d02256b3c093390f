"""Which jobs of a batch may share a forward pass."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

from vlmoe_model.inputs import Job

Outputs = Sequence[npt.NDArray[np.float32]]


def run_apart(
    jobs: Sequence[Job], kind: Callable[[Job], Hashable], run: Callable[[Sequence[Job]], Outputs]
) -> Outputs:
    """Run jobs of each kind by themselves; outputs in the order of all jobs."""
    kinds: dict[Hashable, list[int]] = {}
    for position, job in enumerate(jobs):
        kinds.setdefault(kind(job), []).append(position)
    if len(kinds) <= 1:
        return run(jobs)
    outputs: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(jobs)
    for positions in kinds.values():
        for position, output in zip(positions, run([jobs[p] for p in positions]), strict=True):
            outputs[position] = output
    return outputs
