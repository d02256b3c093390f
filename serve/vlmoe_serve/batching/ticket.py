"""What waits in the queue, and what comes back.

    submit(jobs) -> Ticket -> Pending -> batch -> engine -> Outcome

Work is counted in two numbers: tokens, and attention (the sum of squared sequence lengths), which is what a
packed forward costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from vlmoe_model.inputs import Job

Priority = Literal["interactive", "normal", "batch"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)


@dataclass(frozen=True, slots=True)
class Work:
    """How much there is to compute: tokens, and the sum of squared sequence lengths."""

    tokens: int = 0
    attention: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.tokens + other.tokens, self.attention + other.attention)

    def __sub__(self, other: "Work") -> "Work":
        return Work(self.tokens - other.tokens, self.attention - other.attention)

    @classmethod
    def of(cls, job: Job, patch_size: int) -> "Work":
        """The work of one job: one sequence of its image and text tokens."""
        length = sum(job.num_tokens(patch_size))
        return cls(length, length * length)


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """Jobs that run in the same batch and are answered together.

    arrival_s, deadline_s: on the monotonic clock; None is no deadline.
    """

    id: int
    jobs: tuple[Job, ...]
    work: Work
    arrival_s: float
    priority: Priority = "normal"
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The answers to a submitted request, one output a job and in the jobs' order, and where its time went.

    outputs: float32 arrays of one dimension, as the heads define them.
    queue_ms: from submission until the engine took it up. forward_ms: in the engine.
    batch_tokens: size of the batch it shared. A request that was cut into several batches reports the longest
        wait, the sum of the forwards and the largest batch.
    batch_jobs, reason: how many sequences that batch had, and what released it; of several batches the first's.
    """

    outputs: tuple[npt.NDArray[np.float32], ...]
    queue_ms: float
    forward_ms: float
    batch_tokens: int
    batch_jobs: int = 1
    reason: str = ""

    @classmethod
    def merged(cls, parts: Sequence["Outcome"]) -> "Outcome":
        """The outcome of a request that was cut into several tickets."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            outputs=tuple(output for part in parts for output in part.outputs),
            queue_ms=max(part.queue_ms for part in parts),
            forward_ms=sum(part.forward_ms for part in parts),
            batch_tokens=max(part.batch_tokens for part in parts),
            batch_jobs=parts[0].batch_jobs,
            reason=parts[0].reason,
        )
