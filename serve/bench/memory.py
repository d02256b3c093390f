"""How much memory a family of checkpoints takes beside one of them: proportional set size of the engine process.

    python serve/bench/memory.py --preset vlmoe_small_32e --models 4
    python serve/bench/memory.py --preset vlmoe_small_32e --models 4 --at-run-time

Makes a checkpoint of random weights and deltas of it that changed everything but the mixtures' experts and routers, as
fine-tuning with frozen experts does, and starts an engine for one delta, then one for all. With --at-run-time a server
starts with one delta and the others are loaded into it: its engines after each load, and the most meanwhile; then
they are unloaded one by one.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import torch

from vlmoe_model.checkpoint.delta import save_delta
from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.network import VLMoE
from vlmoe_model.presets import PRESETS
from vlmoe_model.tokenizer import train_wordpiece
from vlmoe_serve.batching.batcher import Batcher
from vlmoe_serve.engine import ENGINES, FAMILY
from vlmoe_serve.engine.base import EngineOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="vlmoe_small_32e", choices=sorted(PRESETS))
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--at-run-time", action="store_true")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        deltas = make_family(Path(folder), PRESETS[args.preset], args.models)
        if args.at_run_time:
            print(json.dumps({"preset": args.preset, "dtype": args.dtype, **loaded_mb(deltas, args.dtype)}))
            return
        one = asyncio.run(engine_mb(deltas[:1], args.dtype))
        several = asyncio.run(engine_mb(deltas, args.dtype))
    result = {"preset": args.preset, "dtype": args.dtype, "models": args.models}
    sizes = {"one_mb": round(one), "family_mb": round(several), "ratio": round(several / one, 3)}
    print(json.dumps(result | sizes))


def make_family(folder: Path, preset: ModelConfig, num_deltas: int) -> list[Path]:
    """Deltas on one base, each with a question-answering head of its own."""
    head = HeadConfig(
        name="vqa",
        task="vqa",
        out_dim=64,
        image=ImageSpec(size=preset.image_size),
        max_text=min(40, preset.max_text),
    )
    config = dataclasses.replace(preset, heads=(head,))
    tokenizer = train_wordpiece(["what is in the picture", "a cat", "two shoes"], 100)
    labels = {"vqa": [f"answer {i}" for i in range(head.out_dim)]}
    torch.manual_seed(0)
    state = VLMoE(config).state_dict()
    save(folder / "base", config, state, tokenizer, labels, dtype=torch.bfloat16)
    frozen = tuple(f"encoder.blocks.{block}.ffn." for block in config.moe_blocks)
    deltas = []
    for number in range(num_deltas):
        changed = {
            name: tensor if name.startswith(frozen) else tensor + 0.01 * (number + 1)
            for name, tensor in state.items()
        }
        deltas.append(folder / f"delta-{number}")
        save_delta(deltas[-1], folder / "base", config, changed, tokenizer, labels, dtype=torch.bfloat16)
    return deltas


async def engine_mb(paths: Sequence[Path], dtype: str) -> float:
    """Proportional set size of an engine that serves these checkpoints, after its warm-up, in MB."""
    options = EngineOptions(paths[0], device="cpu", dtype=dtype, siblings=tuple(paths[1:]))
    batcher = Batcher(options, factory=ENGINES["torch"] if len(paths) == 1 else FAMILY)
    await batcher.start()
    try:
        assert batcher.engine_pid is not None
        return pss_mb(batcher.engine_pid)
    finally:
        await batcher.stop()


def loaded_mb(paths: Sequence[Path], dtype: str) -> dict[str, object]:
    """What the engines of a server take with the first checkpoint, after each further load, and at most meanwhile."""
    folder = paths[0].parent
    keys = folder / "admins"
    keys.write_text("bench-key\n")
    command = [Path(sys.executable).with_name("vlmoe"), "serve", "--port", "0", "--grpc-port", "0"]
    options = ["--model", f"delta-0={paths[0]}", "--dtype", dtype, "--data-dir", folder / "data"]
    admin = ["--model-root", folder, "--admin-key-file", keys]
    with subprocess.Popen([*command, *options, *admin], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ready = re.compile(r"ready on (http://\S+)")
            url = next(found.group(1) for line in server.stdout if (found := ready.search(line)))
            sizes, peaks = [engines_mb(server.pid)], []
            for path in paths[1:]:
                with _most(server.pid) as seen:
                    answer = httpx.post(
                        f"{url}/v1/models/{path.name}/load",
                        json={"path": path.name},
                        headers={"x-api-key": "bench-key"},
                        timeout=600,
                    )
                    answer.raise_for_status()
                    while len(engines(server.pid)) > 1:
                        time.sleep(0.1)
                sizes.append(engines_mb(server.pid))
                peaks.append(max(seen))
            left = [_mb_without(url, server.pid, path.name) for path in reversed(paths[1:])]
        finally:
            server.terminate()
    return {
        "sizes_mb": [round(size) for size in sizes],
        "ratios": [round(size / sizes[0], 3) for size in sizes],
        "peaks_mb": [round(peak) for peak in peaks],
        "unloaded_mb": [round(size) for size in left],
    }


def _mb_without(url: str, pid: int, name: str) -> float:
    """The engines after a checkpoint was unloaded, when they have got smaller or had time to."""
    before = engines_mb(pid)
    answer = httpx.post(f"{url}/v1/models/{name}/unload", headers={"x-api-key": "bench-key"}, timeout=600)
    answer.raise_for_status()
    give_up_s = time.monotonic() + 10
    while engines_mb(pid) > before - 1 and time.monotonic() < give_up_s:
        time.sleep(0.1)
    # the last of it
    time.sleep(1)
    return engines_mb(pid)


@contextlib.contextmanager
def _most(pid: int) -> Iterator[list[float]]:
    seen, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            seen.append(engines_mb(pid))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        done.set()
        watching.join()


def engines(pid: int) -> list[int]:
    """The child processes of a server."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += map(int, (task / "children").read_text().split())
    return found


def engines_mb(pid: int) -> float:
    """What all of them take together."""
    total = 0.0
    for child in engines(pid):
        # one that ends meanwhile takes nothing
        with contextlib.suppress(OSError, RuntimeError):
            total += pss_mb(child)
    return total


def pss_mb(pid: int) -> float:
    """Memory of a process, pages that it shares with others counted by its share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/{pid}/smaps_rollup says no Pss")


if __name__ == "__main__":
    main()
