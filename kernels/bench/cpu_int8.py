"""The mixture on CPU in int8 beside bf16: a step of one and then a step of the other; medians and spread.

    python kernels/bench/cpu_int8.py [--tokens 1 40 197 1576] [--threads 1] [--clock wall] [--dim 768 ...]

Routing is uniform, one choice a token. `twin` is int8 in plain torch, which runs where the C++ kernels cannot be had.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vlmoe_kernels import Pool, backend, int8, make_plan, native

Op = Callable[[], Tensor]

CLOCKS = {"wall": time.perf_counter, "thread": time.thread_time}
WARM_UP = 2


def random_pool(experts: int, dim: int, hidden: int) -> Pool:
    """Weights of the size that keeps outputs near one."""
    w1 = torch.randn(experts, hidden, dim) * dim**-0.5
    w2 = torch.randn(experts, dim, hidden) * hidden**-0.5
    return Pool(w1, torch.zeros(experts, hidden), w2, torch.zeros(experts, dim))


def interleaved_s(ops: dict[str, Op], repeats: int, clock: str) -> dict[str, list[float]]:
    """Seconds of every turn of each operation."""
    times: dict[str, list[float]] = {name: [] for name in ops}
    for turn in range(repeats + WARM_UP):
        for name, op in ops.items():
            start_s = CLOCKS[clock]()
            op()
            if turn >= WARM_UP:
                times[name].append(CLOCKS[clock]() - start_s)
    return times


@torch.inference_mode()
def main() -> None:
    """Print one line a batch."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 40, 197, 1576])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--twin", action="store_true", help="time plain torch too")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    pool = random_pool(options.experts, options.dim, options.hidden)
    small = int8.quantise_pool(pool)
    layers = {
        "bf16": backend("cpu_native").grouped_ffn(
            [Pool(*(t.bfloat16() for t in pool[:4] if t is not None))], 1e-6
        ),
        "int8": native.int8_ffn([small], 1e-6),
    }
    if options.twin:
        layers["twin"] = int8.int8_ffn([small], 1e-6)
    exact = backend("cpu_native").grouped_ffn([pool], 1e-6)
    print(
        f"{options.experts} experts [{options.dim}, {options.hidden}], {options.threads} threads, {options.clock}"
    )
    for num_tokens in options.tokens:
        x_TD = torch.randn(num_tokens, options.dim)
        plan = make_plan(torch.randint(options.experts, (num_tokens, 1)), None, options.experts)
        rows_TD, truth_TD = x_TD.bfloat16(), exact(x_TD, plan)
        ops: dict[str, Op] = {name: partial(layer, rows_TD, plan) for name, layer in layers.items()}
        times = interleaved_s(ops, options.repeats, options.clock)
        middles = {name: statistics.median(spent) for name, spent in times.items()}
        cells = []
        for name, spent in times.items():
            low, _, high = statistics.quantiles(spent, n=4)
            error = (layers[name](rows_TD, plan) - truth_TD).norm() / truth_TD.norm()
            cells.append(
                f"{name} {1e3 * middles[name]:8.2f} ms {(high - low) / middles[name]:4.0%} error {error:.1e}"
            )
        print(
            f"T={num_tokens:<5}",
            "   ".join(cells),
            f"  int8/bf16 {middles['int8'] / middles['bf16']:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
