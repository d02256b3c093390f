"""Layers on CPU side by side: stock torch, oneDNN's packed weights, and the C++ kernels.

All columns run the same rows and plan in turns, so that whatever else the machine does falls on all. Medians, and the
distance between the quartiles as a share of the median. `--clock thread` counts the processor time of the one thread,
for machines that are busy otherwise. `roof` is the larger of (multiply-adds / the best rate of a large product) and
(bytes of the weights that are used / the best rate of reading, on huge pages). Both rates take their turns between the
columns. `ratio` is what the C++ kernels take as a multiple of it, turn by turn: on a shared host the bandwidth changes
from one second to the next, and the rates of a turn are those of its second. `of best`: against the best rates of all
turns. Routing is uniform, one choice a token; `even` gives every expert the same rows.

    python kernels/bench/cpu_layers.py [--experts 128] [--even] [--tokens 40 197 1576] [--threads 1] [--clock wall]
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_kernels import Pool, Run, backend, make_plan
from vlmoe_kernels.limits import Limits

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAYERS = ("moe", "ffn", "qkv", "attn")
COLUMNS = {"stock": "eager", "packed": "cpu", "native": "cpu_native"}
# untimed turns: memory is touched, primitives are built
WARM_UP = 2
# an image of 224 pixels
SEQUENCE = 197

CLOCKS = {"wall": time.perf_counter, "thread": time.thread_time}

Op = Callable[[], Tensor]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Size:
    """Widths of a model."""

    dim: int
    hidden: int
    heads: int
    experts: int


SIZES = {"demo": Size(160, 320, 5, 4), "base": Size(768, 3072, 12, 32), "tiny": Size(64, 128, 2, 4)}


@dataclass(frozen=True, slots=True)
class Case:
    """One layer and batch: its operation in each column, multiply-adds, and bytes that must be read."""

    name: str
    ops: Mapping[str, Op]
    multiply_adds: int
    num_bytes: int


def cases(
    size: Size, num_tokens: int, dtype: torch.dtype, layers: Sequence[str], *, even: bool
) -> Iterator[Case]:
    """Those layers at that number of tokens; one set of weights is alive at a time."""
    x_TD = torch.randn(num_tokens, size.dim).to(dtype)
    item = x_TD.element_size()
    for name, experts in (("moe", size.experts), ("ffn", 1)):
        if name not in layers:
            continue
        groups = torch.randint(experts, (num_tokens, 1))
        if even:
            groups = torch.arange(num_tokens).unsqueeze(1) % experts
        plan = make_plan(groups, torch.rand(num_tokens, 1) if experts > 1 else None, experts)
        pool = random_pool(experts, size, dtype)
        used = sum(rows > 0 for rows in plan.sizes)
        products = 2 * size.dim * size.hidden
        ops = {
            column: partial(backend(chosen).grouped_ffn([pool], 1e-6), x_TD, plan)
            for column, chosen in COLUMNS.items()
        }
        yield Case(name, ops, num_tokens * products, used * products * item)
        del pool, ops
    if "qkv" in layers:
        weight = torch.randn(3 * size.dim, size.dim).to(dtype)
        ops = {
            column: partial(backend(chosen).linear(weight, None), x_TD) for column, chosen in COLUMNS.items()
        }
        yield Case("qkv", ops, num_tokens * weight.numel(), weight.numel() * item)
    if "attn" in layers:
        yield attention_case(size, num_tokens, dtype)


def attention_case(size: Size, num_tokens: int, dtype: torch.dtype) -> Case:
    """Sequences of an image's length, or one shorter one."""
    length = min(SEQUENCE, num_tokens)
    runs = [Run(num_tokens // length, length)]
    shape = runs[0].num_sequences, length, 3, size.heads, size.dim // size.heads
    qkv = torch.randn(shape).to(dtype)
    q_THC, k_THC, v_THC = qkv.flatten(0, 1).unbind(1)
    ops: dict[str, Op] = {
        column: partial(backend(chosen).attention, q_THC, k_THC, v_THC, runs, None)
        for column, chosen in COLUMNS.items()
        if column != "stock"
    }
    q, k, v = (qkv.select(2, i).transpose(1, 2) for i in range(3))
    ops = {"stock": lambda: F.scaled_dot_product_attention(q, k, v), **ops}
    work = 2 * runs[0].num_sequences * length**2 * size.dim
    return Case("attn", ops, work, qkv.numel() * qkv.element_size())


def random_pool(experts: int, size: Size, dtype: torch.dtype) -> Pool:
    """Weights of the size that keeps outputs near one."""
    w1 = (torch.randn(experts, size.hidden, size.dim) * size.dim**-0.5).to(dtype)
    w2 = (torch.randn(experts, size.dim, size.hidden) * size.hidden**-0.5).to(dtype)
    return Pool(w1, torch.zeros(experts, size.hidden).to(dtype), w2, torch.zeros(experts, size.dim).to(dtype))


def interleaved_s(ops: Sequence[Op], repeats: int, clock: Clock) -> list[list[float]]:
    """Seconds of every turn of each operation; all take one turn after the other."""
    times: list[list[float]] = [[] for _ in ops]
    for turn in range(repeats + WARM_UP):
        for op, spent in zip(ops, times, strict=True):
            start_s = clock()
            op()
            if turn >= WARM_UP:
                spent.append(clock() - start_s)
    return times


def spread(times: Sequence[float]) -> float:
    """Distance between the quartiles, as a share of the median."""
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle


def roof_s(case: Case, limits: Limits, times: Sequence[float]) -> float:
    """What the case takes at the rates of those times of the limits' operations."""
    rate, bandwidth = limits.rates(dict(zip(limits.ops, times, strict=True)))
    return max(case.multiply_adds / rate, case.num_bytes / bandwidth)


@torch.inference_mode()
def main() -> None:
    """Print one line a layer, batch and dtype."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=tuple(SIZES), default="base")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 40, 197, 1576, 6304])
    parser.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES), default=list(DTYPES))
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--experts", type=int, help="of the mixture; default: the size's own")
    parser.add_argument("--even", action="store_true", help="give every expert the same rows")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    options = parser.parse_args()
    if options.clock == "thread" and options.threads != 1:
        parser.error("the processor time of one thread says nothing of several")
    clock = CLOCKS[options.clock]
    size = SIZES[options.size]
    if options.experts is not None:
        size = dataclasses.replace(size, experts=options.experts)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, {capability}, {options.threads} threads, {options.clock} clock")
    print(f"size {options.size}: {size}; milliseconds, median and spread")
    for name in options.dtypes:
        dtype = DTYPES[name]
        limits = Limits(dtype, set(COLUMNS.values()))
        rates, ratios = f"{'GFLOP/s':>8} {'GB/s':>5}", f"{'roof':>8} {'ratio':>6} {'of best':>7}"
        print(f"{name}  {'T':>5}", *(f"{each:>15}" for each in COLUMNS), rates, ratios)
        for num_tokens in options.tokens:
            for case in cases(size, num_tokens, dtype, options.layers, even=options.even):
                spent = interleaved_s([*case.ops.values(), *limits.ops.values()], options.repeats, clock)
                times, of_limits = spent[: len(COLUMNS)], spent[len(COLUMNS) :]
                # rates of every turn, and of the best one
                roofs_s = [roof_s(case, limits, turn) for turn in zip(*of_limits, strict=True)]
                best = tuple(map(min, of_limits))
                rate, bandwidth = limits.rates(dict(zip(limits.ops, best, strict=True)))
                ratios_by_turn = [ours / roof for ours, roof in zip(times[-1], roofs_s, strict=True)]
                print(
                    f"{case.name:5} {num_tokens:5}",
                    *(f"{1e3 * statistics.median(t):9.3f} {spread(t):4.0%} " for t in times),
                    f"{2e-9 * rate:8.0f} {1e-9 * bandwidth:5.1f}",
                    f"{1e3 * statistics.median(roofs_s):8.3f} {statistics.median(ratios_by_turn):6.2f}",
                    f"{statistics.median(times[-1]) / roof_s(case, limits, best):7.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
