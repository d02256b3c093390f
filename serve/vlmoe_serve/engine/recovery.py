"""What to run again when a batch does not come back. Requests are pure, so running twice is never wrong.

A batch that took its process down runs once more; if it does so again its requests run one by one, so that a
poisonous one fails alone and its neighbours are answered. A batch that raised goes one by one at once: it
would raise again.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vlmoe_model.inputs import Job
from vlmoe_serve.engine.failures import BatchFailed, EngineDied, EngineDown, EngineFailure
from vlmoe_serve.engine.protocol import BatchDone

_MAX_DEATHS = 2


class Runs(Protocol):
    """Whatever computes a batch: a supervisor."""

    async def run(self, jobs: Sequence[Job]) -> BatchDone:
        """Compute one batch."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class GroupDone:
    """One request's outputs, and the forward that made them. alone: it ran without its neighbours."""

    outputs: tuple[npt.NDArray[np.float32], ...]
    forward_ms: float
    alone: bool


async def run_groups(
    engine: Runs, groups: Sequence[tuple[Job, ...]], wanted: Callable[[int], bool]
) -> list[GroupDone | EngineFailure | None]:
    """Run requests as one batch, whatever happens to the engine; one result a request, in order.

    wanted: whether anybody still waits for the request of this index; asked before each run. None: nobody
    did.
    """
    results: list[GroupDone | EngineFailure | None] = [None] * len(groups)
    live = list(range(len(groups)))
    num_deaths = 0
    while live := [index for index in live if wanted(index)]:
        try:
            done = await engine.run([job for index in live for job in groups[index]])
        except EngineDied as death:
            num_deaths += death.suspect
            if num_deaths < _MAX_DEATHS:
                continue
            failure: EngineFailure = death
        except (BatchFailed, EngineDown) as error:
            failure = error
        else:
            _share_out(done, groups, live, results)
            return results
        if len(live) == 1 or isinstance(failure, EngineDown):
            for index in live:
                results[index] = failure
        else:
            await _one_by_one(engine, groups, live, wanted, results)
        break
    return results


async def _one_by_one(
    engine: Runs,
    groups: Sequence[tuple[Job, ...]],
    live: Sequence[int],
    wanted: Callable[[int], bool],
    results: list[GroupDone | EngineFailure | None],
) -> None:
    waiting = deque(live)
    num_deaths = dict.fromkeys(live, 0)
    while waiting:
        index = waiting.popleft()
        if not wanted(index):
            continue
        try:
            done = await engine.run(groups[index])
        except EngineDied as death:
            num_deaths[index] += death.suspect
            if num_deaths[index] < _MAX_DEATHS:
                # Behind the others: they are answered before it can do more harm.
                waiting.append(index)
            else:
                results[index] = death
        except (BatchFailed, EngineDown) as error:
            results[index] = error
        else:
            results[index] = GroupDone(_arrays(done.outputs), done.forward_ms, alone=True)


def _share_out(
    done: BatchDone,
    groups: Sequence[tuple[Job, ...]],
    live: Sequence[int],
    results: list[GroupDone | EngineFailure | None],
) -> None:
    start = 0
    for index in live:
        end = start + len(groups[index])
        results[index] = GroupDone(_arrays(done.outputs[start:end]), done.forward_ms, alone=len(live) == 1)
        start = end


def _arrays(blocks: Sequence[bytes]) -> tuple[npt.NDArray[np.float32], ...]:
    return tuple(np.frombuffer(block, dtype=np.float32) for block in blocks)
