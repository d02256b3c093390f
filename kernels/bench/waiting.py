"""What waiting threads cost beside busy neighbours: layers on two threads, by how OpenMP's threads wait.

    python kernels/bench/waiting.py [--neighbours 0 2] [--threads 2] [--tokens 40] [--dtype bf16]

Each policy has processes of its own, since OpenMP reads it once: one after the other, in several rounds, while the
neighbours (loops that do nothing else) run. `default` is OpenMP's own choice, `passive` sleeps at once, `short` and
`longer` after 1000 and 10,000 looks; engines are started passive where their threads are as many as the cores. Wall and
processor milliseconds of one pass, medians and, of the wall, the slowest tenth.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack

import torch

from vlmoe_kernels import Pool, Run, backend, make_plan

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DIM, HIDDEN, HEADS, LAYERS = 768, 3072, 12, 12
# what is set in the environment
POLICIES: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "short": {"GOMP_SPINCOUNT": "1000"},
    "longer": {"GOMP_SPINCOUNT": "10000"},
}
ROUNDS = 4
WARM_UP = 2


@torch.inference_mode()
def serve(options: argparse.Namespace) -> None:
    """For every line that comes in, one pass through all layers; its wall and processor seconds go out."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype, native = DTYPES[options.dtype], backend("cpu_native")
    qkv = native.linear((torch.randn(3 * DIM, DIM) * DIM**-0.5).to(dtype), None)
    w1, w2 = torch.randn(1, HIDDEN, DIM) * DIM**-0.5, torch.randn(1, DIM, HIDDEN) * HIDDEN**-0.5
    pool = Pool(*(t.to(dtype) for t in (w1, torch.zeros(1, HIDDEN), w2, torch.zeros(1, DIM))))
    ffn = native.grouped_ffn([pool], 1e-6)
    x_TD = torch.randn(options.tokens, DIM).to(dtype)
    plan = make_plan(torch.zeros(options.tokens, 1, dtype=torch.int64), None, 1)
    for _ in sys.stdin:
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        for _ in range(LAYERS):
            q_THC, k_THC, v_THC = qkv(x_TD).view(options.tokens, 3, HEADS, -1).unbind(1)
            native.attention(q_THC, k_THC, v_THC, [Run(1, options.tokens)], None)
            ffn(x_TD, plan)
        print(time.perf_counter() - start_s, time.process_time() - start_cpu_s, flush=True)


def child(policy: str, stack: ExitStack) -> "subprocess.Popen[str]":
    """The process of one policy."""
    names = {name for setting in POLICIES.values() for name in setting}
    environment = {name: value for name, value in os.environ.items() if name not in names} | dict(
        POLICIES[policy]
    )
    command = [sys.executable, __file__, *sys.argv[1:], "--serve"]
    process = stack.enter_context(
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    stack.callback(process.kill)
    return process


def turn(process: "subprocess.Popen[str]") -> tuple[float, float]:
    """Wall and processor seconds of one pass."""
    assert process.stdin is not None
    assert process.stdout is not None
    print("again", file=process.stdin, flush=True)
    wall, processor = process.stdout.readline().split()
    return float(wall), float(processor)


def main() -> None:
    """Print one line a policy and number of neighbours."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--neighbours", nargs="+", type=int, default=[0, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bf16")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    print(f"{LAYERS} layers, {options.tokens} tokens, {options.dtype}, {options.threads} threads")
    print(f"{'neighbours':>10} {'waiting':>8} {'wall ms':>9} {'slowest tenth':>14} {'processor ms':>13}")
    for num_neighbours in options.neighbours:
        with ExitStack() as stack:
            for _ in range(num_neighbours):
                neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                stack.callback(neighbour.wait)
                stack.callback(neighbour.kill)
            found: dict[str, list[tuple[float, float]]] = {policy: [] for policy in POLICIES}
            for _ in range(ROUNDS):
                for policy, turns in found.items():
                    turns += measure(policy, options.repeats)
        for policy, turns in found.items():
            walls, processors = zip(*turns, strict=True)
            tenth = statistics.quantiles(walls, n=10)[-1]
            print(
                f"{num_neighbours:10} {policy:>8} {1e3 * statistics.median(walls):9.2f} {1e3 * tenth:14.2f} "
                f"{1e3 * statistics.median(processors):13.2f}",
                flush=True,
            )


def measure(policy: str, repeats: int) -> list[tuple[float, float]]:
    """Turns of one policy, in a process that no other policy's runs beside: one that spins would disturb it."""
    with ExitStack() as stack:
        process = child(policy, stack)
        return [turn(process) for _ in range(repeats + WARM_UP)][WARM_UP:]


if __name__ == "__main__":
    main()
