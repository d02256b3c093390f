"""One feed-forward layer on CPU: packed oneDNN weights against `F.linear` on the same sorted rows.

Both run the same plan in turns, so that whatever else the machine does falls on both; one thread. The best time is
what the layer takes, the median what it took on this machine; the ratio is of the best ones.

    python kernels/bench/grouped_ffn.py [--repeats 15] [--sizes demo base]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vlmoe_kernels import Pool, RoutePlan, backend, make_plan

BACKENDS = ("eager", "cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Size:
    """A layer and a batch of tokens, one choice per token."""

    tokens: int
    dim: int
    hidden: int
    experts: int


SIZES = {
    # the demo: one image of 96 pixels, and sixteen
    "demo": (Size(37, 160, 320, 1), Size(37, 160, 320, 4), Size(592, 160, 320, 4)),
    # a base model: one image of 224 pixels, and eight
    "base": (Size(197, 768, 3072, 1), Size(197, 768, 3072, 32), Size(1576, 768, 3072, 32)),
}


def random_pool(size: Size, dtype: torch.dtype) -> Pool:
    """Weights of the size that keeps outputs near one."""
    e, d, f = size.experts, size.dim, size.hidden
    w1, w2 = torch.randn(e, f, d) * d**-0.5, torch.randn(e, d, f) * f**-0.5
    return Pool(*(t.to(dtype) for t in (w1, torch.zeros(e, f), w2, torch.zeros(e, d))))


def random_plan(size: Size) -> RoutePlan:
    """Every token to a random expert, gated where there is a choice."""
    groups = torch.randint(size.experts, (size.tokens, 1))
    return make_plan(groups, torch.rand(size.tokens, 1) if size.experts > 1 else None, size.experts)


def interleaved_ms(ops: Sequence[Callable[[], Tensor]], repeats: int) -> list[tuple[float, float]]:
    """Best and median milliseconds of each operation; all take one turn after the other."""
    times: list[list[float]] = [[] for _ in ops]
    for turn in range(repeats + 2):
        for op, spent in zip(ops, times, strict=True):
            start = time.perf_counter()
            op()
            # the first two turns touch memory and build primitives
            if turn >= 2:
                spent.append(time.perf_counter() - start)
    return [(1e3 * min(spent), 1e3 * statistics.median(spent)) for spent in times]


@torch.inference_mode()
def main() -> None:
    """Print one line a size and dtype."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 1 thread, ms")
    print(f"{'':22} {'F.linear':>17} {'packed':>17}")
    print(f"{'T':>5}{'D':>4}{'F':>5}{'E':>3} dtype", *[f"{'best':>8} {'median':>8}"] * 2, f"{'ratio':>6}")
    for size in (size for name in options.sizes for size in SIZES[name]):
        for name, dtype in DTYPES.items():
            pool, plan = random_pool(size, dtype), random_plan(size)
            x_TD = torch.randn(size.tokens, size.dim).to(dtype)
            layers = [backend(chosen).grouped_ffn([pool], 1e-6) for chosen in BACKENDS]
            ops = [partial(op, x_TD, plan) for op in layers]
            times = interleaved_ms(ops, options.repeats)
            print(
                f"{size.tokens:5}{size.dim:4}{size.hidden:5}{size.experts:3} {name:5}",
                *(f"{best:8.3f} {median:8.3f}" for best, median in times),
                f"{times[1][0] / times[0][0]:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
