"""What an engine is: the interface that the worker process drives, and the values that describe it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from vlmoe_model.inputs import Job
from vlmoe_model.routing_mode import DEFAULT, RoutingMode
from vlmoe_serve.engine.report import EngineReport
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.placement import Placement
from vlmoe_serve.placement.rebalancing import RebalanceOptions


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where the nodes of a group meet; node 0 listens there.

    node: this one. key_file: who joins must know what is in it; None asks nobody. patience_s: how long node 0 waits for
    the others.
    """

    num_nodes: int
    node: int
    host: str
    port: int
    key_file: Path | None = None
    patience_s: float = 300.0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What to load and where. `device` and `dtype` may be "auto": only the worker sees the device.

    threads: compute threads of each process. ranks: processes that share the experts. placement: which
    of them holds which experts; None for even shares. rebalance: how to move them while serving; None for not at all.
    costs: what a step costs; None to measure where it matters. trace_dir: where to record what the routers choose; None
    for nowhere. siblings: further checkpoints for an engine that takes several. left: places, in path and siblings, of
    those that are served no more and keep their places.
    expert_memory: bytes that mixtures' experts may take; 0 for no limit.
    settings: names and values that are an engine's own. mode: how jobs are routed that do not say. rendezvous: of the
    nodes that the ranks are on, equally many on each; None for this one alone. spare_core: use one thread less where
    the last one brings little.
    """

    path: Path
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 1
    ranks: int = 1
    placement: Placement | None = None
    rebalance: RebalanceOptions | None = None
    costs: Costs | None = None
    trace_dir: Path | None = None
    siblings: tuple[Path, ...] = ()
    left: tuple[int, ...] = ()
    expert_memory: int = 0
    settings: tuple[tuple[str, str], ...] = ()
    mode: RoutingMode = DEFAULT
    rendezvous: Rendezvous | None = None
    spare_core: bool = False

    @property
    def local_ranks(self) -> int:
        """Ranks on each node."""
        return self.ranks // (1 if self.rendezvous is None else self.rendezvous.num_nodes)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says about itself.

    space_id: of its embeddings; None without a contrastive head. logit_scale: temperature of the contrastive
    head, 1.0 without one. patch_size: side of a patch in pixels, by which tokens are counted. backend: the kernels
    that run; after a restart these may be others, and it is the same engine all the same. routing_mode: name of the way
    in which jobs are routed that do not say, where answers depend on their batch; "" elsewhere. members: of an engine
    with several checkpoints, each one's own facts; None for those that had left before it was started.
    """

    model_id: str
    space_id: str | None
    logit_scale: float
    dtype: str
    device: str
    num_parameters: int
    patch_size: int
    backend: str = field(compare=False)
    routing_mode: str = ""
    members: tuple["EngineFacts | None", ...] = ()

    def resembles(self, other: "EngineFacts", left: Collection[int] = ()) -> bool:
        """Whether both are of the same engine; of one with several checkpoints, without those that have left."""
        if not self.members:
            return self == other
        pairs = enumerate(zip(self.members, other.members, strict=True))
        return all(place in left or mine == theirs for place, (mine, theirs) in pairs)


def member_head(index: int, head: str) -> str:
    """A head of one checkpoint of several, as its jobs name it."""
    return f"{index}/{head}"


def member_of(head: str) -> tuple[int, str]:
    """Which checkpoint, and its head."""
    index, _, name = head.partition("/")
    return int(index), name


@runtime_checkable
class SeveralEngine(Protocol):
    """What an engine with several checkpoints does besides."""

    def leave(self, members: Collection[int]) -> None:
        """These are served no more: let go of what only they need. Told again of those it was told of before."""
        ...


class Engine(Protocol):
    """Computes batches. One batch at a time, always in the same thread."""

    @property
    def facts(self) -> EngineFacts:
        """What it is."""
        ...

    def warm_up_batches(self) -> Sequence[Sequence[Job]]:
        """Run before the engine counts as ready, and timed. The first must touch every head."""
        ...

    def run(self, jobs: Sequence[Job]) -> Sequence[npt.NDArray[np.float32]]:
        """One float32 array of one dimension a job, in order.

        The jobs' arrays lie in shared memory and are gone after the call: keep no view of them.
        """
        ...

    def beat(self) -> None:
        """Return when every process of it answers; asked while nothing runs. Who waits too long for it ends it."""
        ...

    def report(self) -> EngineReport | None:
        """What it has done since the last report; asked after a batch or a beat, at most every second."""
        ...

    def warmed_up(self) -> None:
        """The warm-up has passed: what runs from now on is traffic."""
        ...

    def close(self) -> None:
        """Write out what it still holds. Nothing runs afterwards; the process ends soon, if need be by force."""
        ...
