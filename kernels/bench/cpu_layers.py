"""Layers on CPU side by side: stock torch, oneDNN's packed weights, and the C++ kernels.

All columns run the same rows and plan in turns, so that whatever else the machine does falls on all. Medians, and the
distance between the quartiles as a share of the median. `--clock thread` counts the processor time of the one thread,
for machines that are busy otherwise. `roof` is the larger of (multiply-adds / the best rate of a
large product) and (bytes of the weights that are used / the best rate of reading), both measured first, in the same
run; the last column is what the C++ kernels take as a multiple of it. Routing is uniform, one choice a token.

    python kernels/bench/cpu_layers.py [--size base] [--experts 128] [--tokens 40 197 1576] [--threads 1] [--clock wall]
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

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
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


def cases(size: Size, num_tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    """Every layer at that number of tokens; one set of weights is alive at a time."""
    x_TD = torch.randn(num_tokens, size.dim).to(dtype)
    item = x_TD.element_size()
    for name, experts in (("moe", size.experts), ("ffn", 1)):
        groups = torch.randint(experts, (num_tokens, 1))
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
    weight = torch.randn(3 * size.dim, size.dim).to(dtype)
    ops = {column: partial(backend(chosen).linear(weight, None), x_TD) for column, chosen in COLUMNS.items()}
    yield Case("qkv", ops, num_tokens * weight.numel(), weight.numel() * item)
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


def peaks(dtype: torch.dtype, repeats: int, clock: Clock) -> tuple[float, float]:
    """Multiply-adds and bytes a second: the best product in any column, and the best sum over 256 MB."""
    x_TD, weight = torch.randn(1024, 1024).to(dtype), torch.randn(2048, 1024).to(dtype)
    ops: list[Op] = [partial(backend(name).linear(weight, None), x_TD) for name in COLUMNS.values()]
    values = torch.ones(1 << 26)
    *products, reads = interleaved_s([*ops, values.sum], repeats, clock)
    rate = x_TD.shape[0] * weight.numel() / min(min(times) for times in products)
    return rate, values.nbytes / min(reads)


@torch.inference_mode()
def main() -> None:
    """Print one line a layer, batch and dtype."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=tuple(SIZES), default="base")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 40, 197, 1576, 6304])
    parser.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES), default=list(DTYPES))
    parser.add_argument("--layers", nargs="+", default=["moe", "ffn", "qkv", "attn"])
    parser.add_argument("--experts", type=int, help="of the mixture; default: the size's own")
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
        rate, bandwidth = peaks(dtype, options.repeats, clock)
        print(f"{name}: {2e-9 * rate:.0f} GFLOP/s, {1e-9 * bandwidth:.1f} GB/s")
        print(f"{'layer':5} {'T':>5}", *(f"{column:>15}" for column in COLUMNS), f"{'roof':>9} {'ratio':>6}")
        for num_tokens in options.tokens:
            for case in cases(size, num_tokens, dtype):
                if case.name not in options.layers:
                    continue
                times = interleaved_s(list(case.ops.values()), options.repeats, clock)
                roof_s = max(case.multiply_adds / rate, case.num_bytes / bandwidth)
                print(
                    f"{case.name:5} {num_tokens:5}",
                    *(f"{1e3 * statistics.median(t):9.3f} {spread(t):4.0%} " for t in times),
                    f"{1e3 * roof_s:9.3f} {statistics.median(times[-1]) / roof_s:6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
