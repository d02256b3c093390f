"""Throughput under drifting load: experts that stay, that move beside the work, and that all move in one step.

    .venv/bin/python serve/bench/rebalance.py [--preset vlmoe_small_32e] [--phase-s 20] [--phases 4] [--images 8]

Two ranks of one thread, each on a core of its own as in a server (not so with --anywhere); random weights. In every
phase all pictures are variants of a few others, so that other experts are hot; one phase is load that does not drift.
Batches follow each other without a gap. The ways take turns of two seconds, so that a machine that is now faster and
now slower is so for all, and stand still (SIGSTOP) between their turns, so that what one does beside its work is paid
for by nobody else; their times to wait are stretched by as much.
`again` is `stay` once more: what it differs by is noise. Prints for each way and phase images a second, the median and
the longest batch, how uneven the ranks were, what moved, and the processor time of the process that plans; then the
throughput over that of `stay`.
"""

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from ranks import leave_to_linux, random_checkpoint

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.config import HeadConfig
from vlmoe_model.inputs import Example, Job
from vlmoe_model.presets import PRESETS
from vlmoe_serve.engine import ENGINES
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.report import EngineReport
from vlmoe_serve.engine.supervisor import Supervisor
from vlmoe_serve.placement.chosen import even_placement
from vlmoe_serve.placement.rebalancing import RebalanceOptions

STAYS = ("stay", "again")
WAYS = (*STAYS, "beside", "at once")
POOL = 64


def phase_jobs(head: HeadConfig, phase: int) -> list[Job]:
    """Pictures of one phase: smooth colours, each with noise of its own."""
    assert head.image is not None
    rng = np.random.default_rng(phase)
    size = head.image.size
    base = np.kron(rng.integers(0, 256, (2, 2, 3)), np.ones((size // 2, size // 2, 1)))
    pictures = (np.clip(base + rng.normal(0, 8, base.shape), 0, 255).astype(np.uint8) for _ in range(POOL))
    return [Job(head.name, Example(image=picture)) for picture in pictures]


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return [pid, *(each for child in children for each in family(child))]


def planning_s(pid: int | None) -> float:
    """Processor time so far of an engine's process that plans."""
    assert pid is not None
    ticks = 0
    for each in family(pid):
        if b"engine.planning" in Path(f"/proc/{each}/cmdline").read_bytes():
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Way:
    """One engine, and what became of the batches that it was given."""

    def __init__(self, path: Path, way: str, args: argparse.Namespace) -> None:
        config = open_directory(path).config
        eager = RebalanceOptions(
            window_steps=64,
            min_steps=32,
            interval_s=args.interval_s * len(args.ways),
            horizon_s=120.0 * len(args.ways),
            planning_share=args.planning_share / len(args.ways),
            at_once=way == "at once",
        )
        options = EngineOptions(
            path,
            "cpu",
            args.dtype,
            threads=1,
            ranks=2,
            placement=even_placement(config, 2),
            rebalance=None if way in STAYS else eager,
        )
        self.name = way
        self.images_per_s: list[float] = []
        self._args = args
        self._reports: list[EngineReport] = []
        self._ms: list[float] = []
        self._num = 0
        self._planned_s = 0.0
        self.engine = Supervisor(ENGINES["torch"], options, on_report=self._reports.append)

    def signal(self, number: int) -> None:
        """To all processes of the engine."""
        assert self.engine.pid is not None
        for pid in family(self.engine.pid):
            os.kill(pid, number)

    async def turn(self, jobs: list[Job]) -> None:
        """Batches without a gap, for one turn."""
        self.signal(signal.SIGCONT)
        begin_s = time.perf_counter()
        while time.perf_counter() - begin_s < self._args.turn_s:
            first = self._num % POOL
            self._num += self._args.images
            start_s = time.perf_counter()
            await self.engine.run([jobs[(first + i) % POOL] for i in range(self._args.images)])
            self._ms.append(1000 * (time.perf_counter() - start_s))
        self.signal(signal.SIGSTOP)

    def tell(self, phase: int) -> None:
        """What became of the phase."""
        loads = [report.load for report in self._reports if report.load is not None]
        busiest, mean = sum(load.busiest for load in loads), sum(load.mean for load in loads)
        moved = sum(report.moves.num_moved for report in self._reports)
        moved_mb = sum(report.moves.moved_bytes for report in self._reports) / 1e6
        refused = sum(sum(report.moves.refused.values()) for report in self._reports)
        planned_s = planning_s(self.engine.pid)
        self.images_per_s.append(1000 * self._args.images * len(self._ms) / sum(self._ms))
        print(
            f"{self.name}, phase {phase}: {self.images_per_s[-1]:.1f} images/s, "
            f"median {statistics.median(self._ms):.1f} ms, longest {max(self._ms):.0f} ms, "
            f"busiest / mean rank {busiest / max(mean, 1):.3f}, "
            f"{moved} experts moved ({moved_mb:.0f} MB), {refused} plans refused, "
            f"{planned_s - self._planned_s:.1f} s of planning",
            flush=True,
        )
        if self._args.timeline:
            print(*(f"{ms:.0f}" for ms in self._ms), flush=True)
        self._planned_s = planned_s
        self._reports.clear()
        self._ms.clear()


async def measure(path: Path, args: argparse.Namespace) -> None:
    """Every way through a phase in turns, then the next phase."""
    ways = [Way(path, way, args) for way in args.ways]
    for way in ways:
        await way.engine.start()
        assert way.engine.pid is not None
        if args.anywhere:
            leave_to_linux(way.engine.pid)
        way.signal(signal.SIGSTOP)
    try:
        head = open_directory(path).config.heads[0]
        for phase in range(args.phases):
            jobs = phase_jobs(head, phase)
            for place in range(round(args.phase_s / args.turn_s)):
                first = place % len(ways)
                for way in ways[first:] + ways[:first]:
                    await way.turn(jobs)
            for way in ways:
                way.tell(phase)
        for way in ways[1:]:
            ratios = [
                mine / stays for mine, stays in zip(way.images_per_s, ways[0].images_per_s, strict=True)
            ]
            told = ", ".join(f"{ratio:.3f}" for ratio in ratios)
            print(f"{way.name} over {ways[0].name}, by phase: {told}; mean {statistics.mean(ratios):.3f}")
    finally:
        for way in ways:
            way.signal(signal.SIGCONT)
            await way.engine.stop()


def main() -> None:
    """Measure each way, on the same pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="vlmoe_small_32e")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--phase-s", type=float, default=20.0, help="of each way")
    parser.add_argument("--phases", type=int, default=4)
    parser.add_argument("--turn-s", type=float, default=2.0)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--interval-s", type=float, default=2.0, help="between plans")
    parser.add_argument("--planning-share", type=float, default=0.01, help="of the time, for plans")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument("--anywhere", action="store_true", help="ranks run on all cores, not each on its own")
    parser.add_argument("--timeline", action="store_true", help="print the time of every batch")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = random_checkpoint(args.preset, Path(scratch, "model"))
        asyncio.run(measure(path, args))


if __name__ == "__main__":
    main()
