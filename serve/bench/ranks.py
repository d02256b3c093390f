"""Expert parallelism on one host: N ranks of one thread beside one rank of N threads, batches interleaved.

    .venv/bin/python serve/bench/ranks.py [--model demo | --preset vlmoe_small_32e] [--ranks 2] [--nodes 2]

Prints the median time of a batch for each, their ratio (above 1: the ranks are faster), and each process's memory
(PSS: shared pages are counted in parts). With --nodes also as that many nodes, which exchange rows by gloo over the
loopback interface where the ranks of one host use shared memory. A preset gets random weights in a temporary directory,
and routers that spread tokens over all experts.
"""

import argparse
import asyncio
import dataclasses
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from vlmoe_model.checkpoint.directory import open_directory, resolve
from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec
from vlmoe_model.inputs import Example, Job
from vlmoe_model.network import VLMoE
from vlmoe_model.presets import PRESETS
from vlmoe_model.tokenizer import train_wordpiece
from vlmoe_serve.engine import ENGINES
from vlmoe_serve.engine.base import EngineOptions, Rendezvous
from vlmoe_serve.engine.loading import free_port
from vlmoe_serve.engine.nodes.agent import Agent
from vlmoe_serve.engine.supervisor import Supervisor


def random_checkpoint(preset: str, directory: Path) -> Path:
    """A preset with a classification head of 1,000 classes."""
    config = PRESETS[preset]
    head = HeadConfig(
        name="classes", task="image_classification", out_dim=1000, image=ImageSpec(size=224), max_text=0
    )
    config = dataclasses.replace(config, heads=(head,))
    torch.manual_seed(0)
    network = VLMoE(config)
    labels = {"classes": [f"class {i}" for i in range(1000)]}
    save(directory, config, network.state_dict(), train_wordpiece(["a"], 100), labels, dtype=torch.bfloat16)
    return directory


def pictures(path: Path, num: int) -> list[Job]:
    """Jobs of the first head that takes an image alone."""
    config = open_directory(path).config
    rng = np.random.default_rng(0)
    for head in config.heads:
        if head.image is not None and head.task in ("image_classification", "contrastive"):
            size = head.image.size
            return [
                Job(head.name, Example(image=rng.integers(0, 256, (size, size, 3), np.uint8)))
                for _ in range(num)
            ]
    raise SystemExit(f"{path}: no head takes an image alone")


def processes_of(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def leave_to_linux(pid: int) -> None:
    """Let all ranks of an engine run on all cores, not each on its own (`engine/own_cores.py`)."""
    for process in processes_of(pid):
        for thread in os.listdir(f"/proc/{process}/task"):
            os.sched_setaffinity(int(thread), os.sched_getaffinity(0))


def pss_mb(pid: int) -> float:
    """Proportional set size of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


async def measure(path: Path, args: argparse.Namespace) -> None:
    """All engines alive at once, one batch of each in turn."""
    dtype, ranks, nodes, sizes = args.dtype, args.ranks, args.nodes, args.images
    alternatives = {
        f"1 rank x {ranks} threads": EngineOptions(path, "cpu", dtype, threads=ranks),
        f"{ranks} ranks x 1 thread": EngineOptions(path, "cpu", dtype, threads=1, ranks=ranks),
    }
    if args.anywhere:
        alternatives[f"{ranks} ranks x 1 thread anywhere"] = EngineOptions(
            path, "cpu", dtype, threads=1, ranks=ranks
        )
    agents = []
    if nodes > 1:
        where = Rendezvous(nodes, 0, "127.0.0.1", free_port())
        spread = EngineOptions(path, "cpu", dtype, threads=1, ranks=ranks, rendezvous=where)
        alternatives[f"{ranks} ranks on {nodes} nodes"] = spread
        for node in range(1, nodes):
            place = dataclasses.replace(where, node=node)
            agents.append(Agent(dataclasses.replace(spread, rendezvous=place), place))
            threading.Thread(target=agents[-1].run).start()
    engines = {name: Supervisor(ENGINES["torch"], options) for name, options in alternatives.items()}
    for engine in engines.values():
        await engine.start()
    try:
        if args.anywhere:
            free = engines[f"{ranks} ranks x 1 thread anywhere"]
            assert free.pid is not None
            leave_to_linux(free.pid)
        for num in sizes:
            jobs = pictures(path, num)
            ms: dict[str, list[float]] = {name: [] for name in engines}
            for _ in range(args.repeats):
                for name, engine in engines.items():
                    start_s = time.perf_counter()
                    await engine.run(jobs)
                    ms[name].append(1000 * (time.perf_counter() - start_s))
            (_, one), *others = ((name, statistics.median(times[1:])) for name, times in ms.items())
            told = "; ".join(f"{name} {many:.1f} ms, ratio {one / many:.2f}" for name, many in others)
            print(f"{num} images: {one:.1f} ms; {told}", flush=True)
        for name, engine in engines.items():
            assert engine.pid is not None
            print(name, "PSS MB:", *(f"{pss_mb(pid):.0f}" for pid in processes_of(engine.pid)))
    finally:
        for engine in engines.values():
            await engine.stop()
        for agent in agents:
            agent.stop()


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--preset", choices=sorted(PRESETS))
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--anywhere", action="store_true", help="ranks that run on all cores, beside those on their own"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = random_checkpoint(args.preset, Path(scratch, "model")) if args.preset else resolve(args.model)
        asyncio.run(measure(path, args))


if __name__ == "__main__":
    main()
