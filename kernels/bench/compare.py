"""The C++ kernels of two checkouts side by side: what a change to them is worth.

    git worktree add /tmp/before COMMIT
    python kernels/bench/compare.py --beside /tmp/before [--threads 2] [--tokens 40 197 1576] [--layers moe attn]

Each checkout has a process of its own, with the same weights and rows from the same seed; they take turns call by
call, and the other one sleeps meanwhile. Medians, and the distance between the quartiles as a share of the median.
`same`: the outputs of both have the same bits. `moe` has uniform routing, `even` gives all experts the same rows.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vlmoe_kernels import Pool, Run, backend, int8, make_plan, native

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAYERS = ("moe", "even", "int8", "ffn", "qkv", "attn")
DIM, HIDDEN, HEADS = 768, 3072, 12
# sequences x tokens
ATTENTION = ((1, 197), (8, 197), (32, 40), (1, 901))
# untimed turns: memory is touched
WARM_UP = 2
KERNELS = Path(__file__).parents[1]

Op = Callable[[], Tensor]


def ops(layer: str, dtype: torch.dtype, tokens: list[int], experts: int) -> Iterator[tuple[str, Op]]:
    """What is timed of a layer, with its name; one set of weights is alive at a time."""
    chosen = backend("cpu_native")
    if layer == "attn":
        for num, length in ATTENTION:
            q_THC, k_THC, v_THC = torch.randn(num * length, 3, HEADS, DIM // HEADS).to(dtype).unbind(1)
            runs = [Run(num, length)]
            yield f"{num} x {length}", partial(chosen.attention, q_THC, k_THC, v_THC, runs, None)
    elif layer == "qkv":
        linear = chosen.linear(torch.randn(3 * DIM, DIM).to(dtype), None)
        for num in tokens:
            yield str(num), partial(linear, torch.randn(num, DIM).to(dtype))
    else:
        num_experts = 1 if layer == "ffn" else experts
        pool = Pool(
            torch.randn(num_experts, HIDDEN, DIM) * DIM**-0.5,
            torch.zeros(num_experts, HIDDEN),
            torch.randn(num_experts, DIM, HIDDEN) * HIDDEN**-0.5,
            torch.zeros(num_experts, DIM),
        )
        if layer == "int8":
            ffn = native.int8_ffn([int8.quantise_pool(pool)], 1e-6)
        else:
            ffn = chosen.grouped_ffn([Pool(*(t.to(dtype) for t in pool[:4] if t is not None))], 1e-6)
        del pool
        for num in tokens:
            groups_TK = torch.randint(num_experts, (num, 1))
            if layer == "even":
                groups_TK = torch.arange(num).unsqueeze(1) % num_experts
            plan = make_plan(groups_TK, torch.rand(num, 1), num_experts)
            yield str(num), partial(ffn, torch.randn(num, DIM).to(dtype), plan)


@torch.inference_mode()
def serve(options: argparse.Namespace) -> None:
    """The process of one checkout: for every line that comes in, one call, and its seconds go out."""
    torch.set_num_threads(options.threads)
    for dtype in options.dtypes:
        for layer in options.layers:
            torch.manual_seed(0)
            for name, op in ops(layer, DTYPES[dtype], options.tokens, options.experts):
                bits = hashlib.sha256(op().float().numpy().tobytes()).hexdigest()
                _say({"case": f"{layer} {dtype} {name}", "bits": bits})
                while sys.stdin.readline() == "again\n":
                    start_s = time.perf_counter()
                    op()
                    _say(time.perf_counter() - start_s)
    _say(None)


def _say(what: object) -> None:
    print(json.dumps(what), flush=True)


class Checkout:
    """A process that serves the kernels below that directory."""

    def __init__(self, kernels: Path, argv: list[str], stack: ExitStack) -> None:
        environment = dict(os.environ, PYTHONPATH=str(kernels), OMP_WAIT_POLICY="passive")
        command = [sys.executable, __file__, *argv, "--serve"]
        self._process = stack.enter_context(
            subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        stack.callback(self._process.kill)

    def hear(self) -> dict[str, str] | None:
        """The next case, or None after the last one."""
        case: dict[str, str] | None = json.loads(self._answer())
        return case

    def again(self) -> float:
        """Seconds of one call."""
        self._tell("again")
        return float(self._answer())

    def next(self) -> None:
        """Go on to the next case."""
        self._tell("next")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("one of the two ended early")
        return line


def cell(times: list[float]) -> str:
    """Median in milliseconds, and spread."""
    low, middle, high = statistics.quantiles(times, n=4)
    return f"{1e3 * middle:9.3f} {(high - low) / middle:4.0%}"


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beside", type=Path, required=True, help="the other checkout")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 40, 197, 1576])
    parser.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES), default=list(DTYPES))
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    other = options.beside.resolve() / KERNELS.name
    if not other.is_dir():
        parser.error(f"{other} is not there")
    print(f"{options.threads} threads; milliseconds, median and spread")
    print(f"{'':20} {'beside':>14} {'here':>14} {'here/beside':>11}  bits")
    with ExitStack() as stack:
        both = [Checkout(kernels, sys.argv[1:], stack) for kernels in (other, KERNELS)]
        while (cases := [each.hear() for each in both])[0] is not None:
            beside, here = cases
            assert beside is not None
            assert here is not None
            times: list[list[float]] = [[], []]
            for turn in range(options.repeats + WARM_UP):
                for each, spent in zip(both, times, strict=True):
                    seconds = each.again()
                    if turn >= WARM_UP:
                        spent.append(seconds)
            ratio = statistics.median(times[1]) / statistics.median(times[0])
            bits = "same" if beside["bits"] == here["bits"] else "other"
            print(f"{here['case']:20}", *map(cell, times), f"{ratio:11.2f}  {bits}", flush=True)
            for each in both:
                each.next()


if __name__ == "__main__":
    main()
