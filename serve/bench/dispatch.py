"""How much of a mixture's layer is dispatch and combine: two ranks of one thread on one host, rows in shared memory.

    .venv/bin/python serve/bench/dispatch.py [--preset vlmoe_base_32e] [--tokens 1576] [--dtype bf16] [--repeats 40]

Both ranks enter the layer together with half of the tokens each, on a core of its own each, and route them. Dispatch is
from the moment at which both have routed until a rank's experts begin, combine from the moment at which both ranks'
experts are done until a rank has its outputs: copies and waking each other, but not the wait for a rank that has more
to do, which is told apart (the difference between the ranks' experts). Medians over layers of the slower rank. Layers
without a token are run in turns with the full ones: what they take, no copy can save.
"""

import argparse
import os
import statistics
import struct
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import IO

import torch
from torch import Tensor

from vlmoe_kernels import RoutePlan, backend
from vlmoe_kernels.choice import choose_backend
from vlmoe_kernels.collectives import Group
from vlmoe_kernels.collectives.shared_memory import SharedMemoryGroup, make_descriptors
from vlmoe_kernels.heap import keep_freed_memory
from vlmoe_kernels.ops import GroupedOp, PiecewiseOp
from vlmoe_model.config import ModelConfig
from vlmoe_model.dispatch import Dispatcher
from vlmoe_model.dispatch.expert_parallel import nearest_copy
from vlmoe_model.dispatch.holdings import Holdings
from vlmoe_model.feed_forward import FeedForward
from vlmoe_model.packing import Tokens
from vlmoe_model.precision import DTYPES
from vlmoe_model.presets import PRESETS

RANKS = 2


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one layer on one rank, in seconds of a clock that all processes share."""

    begin: float
    routed: float
    experts_begin: float
    experts_end: float
    end: float


class Timed:
    """A grouped operation, and when it ran."""

    def __init__(self, op: GroupedOp) -> None:
        self._op = op
        self.begin_s = self.end_s = 0.0

    def __call__(self, x_TD: Tensor, plan: RoutePlan) -> Tensor:
        """Apply it."""
        self.begin_s = time.perf_counter()
        y_TD = self._op(x_TD, plan)
        self.end_s = time.perf_counter()
        return y_TD


class TimedPiecewise(Timed):
    """One that reads rows where they lie."""

    def of_pieces(self, pieces_RD: Sequence[Tensor], source_T: Tensor, plan: RoutePlan, y_TD: Tensor) -> None:
        """See `PiecewiseOp`."""
        assert isinstance(self._op, PiecewiseOp)
        self.begin_s = time.perf_counter()
        self._op.of_pieces(pieces_RD, source_T, plan, y_TD)
        self.end_s = time.perf_counter()


class Watched:
    """A dispatcher, and when it did what."""

    def __init__(self, dispatch: Dispatcher) -> None:
        self._dispatch = dispatch
        self.routed_s = self.begin_s = self.end_s = 0.0

    def __call__(self, x_TD: Tensor, plan: RoutePlan, experts: GroupedOp) -> Tensor:
        """See `Dispatcher`."""
        timed = TimedPiecewise(experts) if isinstance(experts, PiecewiseOp) else Timed(experts)
        self.routed_s = time.perf_counter()
        y_TD = self._dispatch(x_TD, plan, timed)
        self.begin_s, self.end_s = timed.begin_s, timed.end_s
        return y_TD


def layer_of(config: ModelConfig, group: Group, dtype: torch.dtype) -> tuple[FeedForward, Watched]:
    """The first mixture with random weights, this rank's half of its experts."""
    block = config.moe_blocks[0]
    torch.manual_seed(0)
    layer = FeedForward(config, block).eval()
    layer.share_experts(group, Holdings.even(config, RANKS).layers[block], nearest_copy)
    layer.pack(backend(choose_backend("auto", "cpu")), dtype)
    watched = Watched(layer.dispatch)
    layer.dispatch = watched
    return layer, watched


@torch.inference_mode()
def rank_main(
    group: Group, config: ModelConfig, args: argparse.Namespace, out: IO[bytes] | None
) -> list[Moments]:
    """Every layer of one rank, the full ones and those without a token in turns; written to `out`, if there is one."""
    torch.set_num_threads(1)
    keep_freed_memory()
    # beside other work Linux may wake a rank on the other's core, where it waits for milliseconds
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[group.rank % len(cores)]})
    layer, watched = layer_of(config, group, DTYPES[args.dtype])
    torch.manual_seed(group.rank)
    num = args.tokens // RANKS
    x_TD = torch.randn(num, config.dim)
    tokens = Tokens.of(torch.zeros(num, dtype=torch.int64), 2)
    moments = []
    for turn in range(2 * (args.repeats + 2)):
        group.exchange_counts(torch.zeros(RANKS, 1, dtype=torch.int64))
        begin_s = time.perf_counter()
        if turn % 2:
            layer.take_part("cpu")
        else:
            layer(x_TD, tokens, None)
        end_s = time.perf_counter()
        moments.append(Moments(begin_s, watched.routed_s, watched.begin_s, watched.end_s, end_s))
    if out is not None:
        for each in moments:
            out.write(struct.pack("=5d", *astuple(each)))
    return moments


def report(name: str, pairs: list[tuple[Moments, ...]]) -> None:
    """Print medians of one kind of layers."""
    layer, dispatch, combine, wait, experts, share = ([] for _ in range(6))
    for ranks in pairs:
        routed, done = max(each.routed for each in ranks), max(each.experts_end for each in ranks)
        whole = max(each.end for each in ranks) - min(each.begin for each in ranks)
        there = max(each.experts_begin for each in ranks) - routed
        back = max(each.end for each in ranks) - done
        took = [each.experts_end - each.experts_begin for each in ranks]
        layer.append(whole)
        dispatch.append(there)
        combine.append(back)
        experts.append(max(took))
        wait.append(max(took) - min(took))
        share.append((there + back) / whole)
    ms = [1000 * statistics.median(values) for values in (layer, experts, dispatch, combine, wait)]
    print(
        f"{name}: layer {ms[0]:.2f} ms, experts {ms[1]:.2f}, dispatch {ms[2]:.3f}, combine {ms[3]:.3f}, "
        f"of the layer {100 * statistics.median(share):.1f} %; waiting for the busier rank {ms[4]:.2f} ms"
    )


def main() -> None:
    """Start the other rank, be the first, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="vlmoe_base_32e")
    parser.add_argument("--tokens", type=int, default=1576)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    config = PRESETS[args.preset]
    ours, theirs = make_descriptors(RANKS)
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(sink, "wb") as out:
            rank_main(SharedMemoryGroup(theirs), config, args, out)
        os._exit(0)
    os.close(sink)
    mine = rank_main(SharedMemoryGroup(ours), config, args, None)
    with os.fdopen(source, "rb") as told:
        other = [Moments(*values) for values in struct.iter_unpack(f"={len(fields(Moments))}d", told.read())]
    os.waitpid(child, 0)
    # the first two of each kind warm up
    pairs = list(zip(mine, other, strict=True))[4:]
    print(f"{args.preset}, {args.dtype}, {args.tokens} tokens over {RANKS} ranks of one thread")
    report("full", pairs[::2])
    report("without a token", pairs[1::2])


if __name__ == "__main__":
    main()
