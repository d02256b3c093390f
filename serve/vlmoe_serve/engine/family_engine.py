"""Several checkpoints that share weights, in one process.

A job says whose it is in front of its head: "2/questions" is for the third checkpoint. A batch may hold jobs of all of
them; each computes its own, one after the other. One that leaves is let go of, and its place stays empty.
"""

import dataclasses
import gc
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from vlmoe_kernels.heap import give_back_freed_memory
from vlmoe_model.inputs import Job
from vlmoe_serve.engine import torch_engine
from vlmoe_serve.engine.base import EngineFacts, EngineOptions, member_head, member_of
from vlmoe_serve.engine.report import EngineReport
from vlmoe_serve.engine.torch_engine import TorchEngine


class FamilyEngine:
    """The engines of a family, by their places. At least one is there."""

    def __init__(self, members: Sequence[TorchEngine | None]) -> None:
        self._members = {place: member for place, member in enumerate(members) if member is not None}
        self.facts: EngineFacts = dataclasses.replace(
            self._first.facts, members=tuple(None if member is None else member.facts for member in members)
        )

    @property
    def _first(self) -> TorchEngine:
        return next(iter(self._members.values()))

    def warm_up_batches(self) -> Sequence[Sequence[Job]]:
        """Every head of every member once; what batches cost is learnt from the first, which the others resemble."""
        batches = [
            [
                [Job(member_head(place, job.head), job.example) for job in jobs]
                for jobs in one.warm_up_batches()
            ]
            for place, one in self._members.items()
        ]
        return [job for of_member in batches for job in of_member[0]], *batches[0][1:]

    def run(self, jobs: Sequence[Job]) -> Sequence[npt.NDArray[np.float32]]:
        """One packed forward a member."""
        outputs: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(jobs)
        theirs: dict[int, tuple[list[int], list[Job]]] = {}
        for position, job in enumerate(jobs):
            index, head = member_of(job.head)
            positions, own = theirs.setdefault(index, ([], []))
            positions.append(position)
            own.append(dataclasses.replace(job, head=head))
        for index, (positions, own) in theirs.items():
            for position, output in zip(positions, self._members[index].run(own), strict=True):
                outputs[position] = output
        return outputs

    def beat(self) -> None:
        """Asked of every member."""
        for member in self._members.values():
            member.beat()

    def report(self) -> EngineReport:
        """Of all members together: their mixtures are alike, and mostly the same."""
        reports = [member.report() for member in self._members.values()]
        loads = [report.load for report in reports if report.load is not None]
        total = loads[0] if loads else None
        for load in loads[1:]:
            if total is not None and total.is_like(load):
                total = total.plus(load)
        return EngineReport(total, reports[0].memory_G, device_bytes=reports[0].device_bytes)

    def warmed_up(self) -> None:
        """Told to every member."""
        for member in self._members.values():
            member.warmed_up()

    def leave(self, members: Collection[int]) -> None:
        """See `SeveralEngine`."""
        gone = [self._members.pop(place) for place in members if place in self._members]
        for member in gone:
            member.close()
        if gone:
            del gone, member
            # what was there when loading ended, the collector has put aside for good
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            give_back_freed_memory()

    def close(self) -> None:
        """Told to every member."""
        for member in self._members.values():
            member.close()


def load(options: EngineOptions) -> FamilyEngine:
    """Load a checkpoint and its siblings, without those that have left.

    Raises:
        ValueError: a bad checkpoint, or an unknown device or dtype.
    """
    members: list[TorchEngine | None] = []
    for place, path in enumerate((options.path, *options.siblings)):
        there = [member for member in members if member is not None]
        own = dataclasses.replace(options, path=path, siblings=(), left=())
        members.append(None if place in options.left else torch_engine.load(own, there))
    return FamilyEngine(members)
