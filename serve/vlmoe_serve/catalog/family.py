"""Models that share weights share an engine process, and so a queue: each has its own view of one batcher.

A family is made when the server starts, of checkpoints whose tensors lie in the same files: a base and its deltas.
"""

import asyncio
import dataclasses
from collections.abc import Sequence

from vlmoe_model.checkpoint.directory import CheckpointDir
from vlmoe_model.inputs import Job
from vlmoe_serve.batching.batcher import Batcher
from vlmoe_serve.batching.ticket import Outcome, Priority, Work
from vlmoe_serve.engine.base import member_head
from vlmoe_serve.engine.protocol import EngineInfo


def families(directories: Sequence[CheckpointDir]) -> list[list[int]]:
    """Positions of the checkpoints that have a file of weights in common, in their order.

    Their patches must be of one size, by which a queue counts work.
    """
    found: list[tuple[set[object], list[int]]] = []
    for position, directory in enumerate(directories):
        patch_size = directory.config.patch_size
        files: set[object] = {(entry.file.resolve(), patch_size) for entry in directory.tensors.values()}
        positions = [position]
        for other in [one for one in found if one[0] & files]:
            files |= other[0]
            positions = [*other[1], *positions]
            found.remove(other)
        found.append((files, sorted(positions)))
    return sorted(positions for _, positions in found)


class Family:
    """One batcher for several members; its engine starts with the first of them and stops with the last."""

    def __init__(self, batcher: Batcher, num_members: int) -> None:
        self.batcher = batcher
        self._lock = asyncio.Lock()
        self._info: EngineInfo | None = None
        self._served = set(range(num_members))

    def members(self) -> list["Member"]:
        """A view for each."""
        return [Member(self, index) for index in sorted(self._served)]

    async def start(self) -> EngineInfo:
        """Start the engine, once."""
        async with self._lock:
            if self._info is None:
                self._info = await self.batcher.start()
            return self._info

    async def leave(self, index: int) -> None:
        """A member is served no more."""
        self._served.discard(index)
        if self._served:
            self.batcher.leave(index)
        else:
            await self.batcher.stop()


class Member:
    """A family's batcher as one of its models sees it. What is not documented here is the batcher's."""

    def __init__(self, family: Family, index: int) -> None:
        self._family = family
        self._batcher = family.batcher
        self._index = index

    async def start(self) -> EngineInfo:
        """Start the family's engine if nobody has; this member's facts."""
        return self._mine(await self._family.start())

    async def stop(self) -> None:
        """Leave the family."""
        await self._family.leave(self._index)

    async def submit(
        self,
        jobs: Sequence[Job],
        *,
        priority: Priority = "normal",
        deadline_s: float | None = None,
        admitted: bool = False,
    ) -> Outcome:
        """See `Batcher.submit`; the jobs are marked as this member's."""
        own = [dataclasses.replace(job, head=member_head(self._index, job.head)) for job in jobs]
        return await self._batcher.submit(own, priority=priority, deadline_s=deadline_s, admitted=admitted)

    @property
    def info(self) -> EngineInfo:
        """What the engine says of this member."""
        return self._mine(self._batcher.info)

    @property
    def ready(self) -> bool:
        """See `Batcher`."""
        return self._batcher.ready

    @property
    def alive(self) -> bool:
        """See `Batcher`."""
        return self._batcher.alive

    @property
    def engine_pid(self) -> int | None:
        """See `Batcher`."""
        return self._batcher.engine_pid

    @property
    def num_waiting(self) -> int:
        """See `Batcher`; the whole family's."""
        return self._batcher.num_waiting

    def wait_ms(self, priority: Priority = "normal", deadline_s: float | None = None) -> float:
        """See `Batcher`."""
        return self._batcher.wait_ms(priority, deadline_s)

    def cost_ms(self, work: Work) -> float:
        """See `Batcher`."""
        return self._batcher.cost_ms(work)

    def share_ms(self, jobs: Sequence[Job]) -> float:
        """See `Batcher`."""
        return self._batcher.share_ms(jobs)

    def check_admission(
        self,
        priority: Priority = "normal",
        deadline_s: float | None = None,
        *,
        ahead_ms: float = 0.0,
        upstream_ms: float = 0.0,
        own_ms: float = 0.0,
        margin_ms: float = 0.0,
    ) -> float:
        """See `Batcher`."""
        return self._batcher.check_admission(
            priority,
            deadline_s,
            ahead_ms=ahead_ms,
            upstream_ms=upstream_ms,
            own_ms=own_ms,
            margin_ms=margin_ms,
        )

    def _mine(self, info: EngineInfo) -> EngineInfo:
        facts = info.facts.members[self._index]
        assert facts is not None, "who is asked for was there when the engine was started"
        return EngineInfo(facts, info.load_s, info.samples)
