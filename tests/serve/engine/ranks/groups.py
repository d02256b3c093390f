"""A group of ranks under a supervisor, a placement for it, and its processes."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from vlmoe_serve.engine import ENGINES
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.report import EngineReport
from vlmoe_serve.engine.supervisor import Supervisor, SupervisorOptions
from vlmoe_serve.placement.placement import Placement, place


def placed(num_ranks: int) -> Placement:
    """Copies; of the second mixture some ranks hold nothing."""
    ranks = {
        2: ([[0, 1, 3, 4, 5, 6, 7], [1, 2, 3, 6, 7]], [[0, 1, 2, 3, 4, 5, 6, 7], []]),
        3: ([[0, 1, 4, 5], [1, 2, 5, 6], [3, 0, 7]], [[0, 1, 2, 3], [], [4, 5, 6, 7]]),
        4: ([[0, 4], [1, 5, 0], [2, 6, 4], [3, 7]], [[0, 1, 2, 3], [], [4, 5, 6, 7], [0, 1]]),
    }
    return place((0, 2), (4, 4), ranks[num_ranks], 8)


def with_ranks(
    checkpoint: Path,
    num_ranks: int,
    use: Callable[[Supervisor], Coroutine[Any, Any, None]],
    on_report: Callable[[EngineReport], None] = lambda report: None,
    **more: Any,
) -> None:
    async def main() -> None:
        how = {"device": "cpu", "dtype": "fp32", "threads": 1, "ranks": num_ranks, **more}
        options = EngineOptions(checkpoint, **how)
        async with asyncio.timeout(240):
            patient = SupervisorOptions(max_down_s=200, ping_s=1.0)
            supervisor = Supervisor(ENGINES["torch"], options, patient, on_report=on_report)
            await supervisor.start()
            try:
                await use(supervisor)
            finally:
                await supervisor.stop()

    asyncio.run(main())


def children_of(pid: int | None) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
