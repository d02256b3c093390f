"""Where a forward pass spends its time: the mixture's operations beside those of its dense twin.

    spied on: encode -> add_norm, qkv, attention, out, route (scores in it), feed-forward -> seconds by name

Clocks are wrapped around what a packed network calls, so the two take turns as they are. `rest` is what lies between:
Python, gathers, views. Of blocks that are mixtures, the feed-forward layer has a line of its own.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from vlmoe_kernels import backend
from vlmoe_kernels.choice import choose_backend
from vlmoe_model.attention import Attention
from vlmoe_model.embeddings import Embeddings
from vlmoe_model.encoder import Block
from vlmoe_model.layers import GroupedNorm
from vlmoe_model.network import VLMoE
from vlmoe_model.precision import DTYPES
from vlmoe_serve.bench.cases import batch
from vlmoe_serve.bench.networks import Model, encode
from vlmoe_serve.bench.timing import MIN_TURNS

EMBEDDINGS, NORMS, QKV, ATTENTION, OUT = "embeddings", "sums and norms", "qkv", "attention", "out"
ROUTING, MIXTURES, OTHERS, REST = "routing", "feed-forward, mixtures", "feed-forward, others", "rest"
NAMES = (EMBEDDINGS, NORMS, QKV, ATTENTION, OUT, ROUTING, MIXTURES, OTHERS, REST)

Turn = Mapping[str, float]


class Spy:
    """Seconds by name since it was last asked."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def watch(self, owner: object, attribute: str, name: str) -> None:
        """Put a clock around a function that the owner calls by that attribute."""
        setattr(owner, attribute, self.timed(getattr(owner, attribute), name))

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, its time counted under that name."""

        def run(*args: Any, **kwargs: Any) -> Any:
            start_s = self._clock()
            result = function(*args, **kwargs)
            self._seconds[name] += self._clock() - start_s
            return result

        return run

    def turn(self, function: Callable[[], object]) -> Turn:
        """Run it once: seconds of all names, which add up to its own."""
        self._seconds.clear()
        start_s = self._clock()
        function()
        total_s = self._clock() - start_s
        found = dict(self._seconds)
        return {name: found.get(name, 0.0) for name in NAMES} | {REST: total_s - sum(found.values())}


def watch(network: VLMoE, mixtures: Sequence[int]) -> Spy:
    """Put clocks into a packed network; mixtures: the blocks whose feed-forward layer is named so."""
    spy = Spy()
    for module in network.modules():
        if isinstance(module, Embeddings):
            spy.watch(module, "forward", EMBEDDINGS)
        elif isinstance(module, GroupedNorm):
            spy.watch(module, "add", NORMS)
        elif isinstance(module, Attention):
            spy.watch(module.qkv, "op", QKV)
            spy.watch(module.out, "op", OUT)
            attention = spy.timed(module.backend.attention, ATTENTION)
            module.backend = SimpleNamespace(attention=attention)
    for index, block in enumerate(network.encoder.blocks):
        if isinstance(block, Block):
            spy.watch(block.ffn, "route", ROUTING)
            spy.watch(block.ffn, "op", MIXTURES if index in mixtures else OTHERS)
    return spy


@torch.inference_mode()
def table(model: Model, dtype: str, cases: Sequence[str], *, seconds: float) -> Iterator[str]:
    """Lines of a table for every case: medians in milliseconds of the mixture and its twin, which take turns.

    Args:
        model: what to measure.
        dtype: of the matrices.
        cases: names of `cases.CASES`.
        seconds: about how long each case takes.

    Raises:
        ValueError: the network does not take a case's pictures.
    """
    wanted, mixtures = DTYPES[dtype], model.config.moe_blocks
    weights, chosen = model.weights(wanted), backend(choose_backend("auto", "cpu"))
    networks = [model.network(chosen, wanted, weights, dense=dense) for dense in (False, True)]
    spies = [watch(network, mixtures) for network in networks]
    for case in cases:
        packed = batch(case, model.config)
        turns: tuple[list[Turn], list[Turn]] = ([], [])
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s or len(turns[0]) <= MIN_TURNS:
            for network, spy, spent in zip(networks, spies, turns, strict=True):
                spent.append(spy.turn(partial(encode, network, packed)))
        # the first turn touches memory
        yield from _lines(case, dtype, turns[0][1:], turns[1][1:])


def _lines(case: str, dtype: str, mixture: Sequence[Turn], twin: Sequence[Turn]) -> Iterator[str]:
    yield f"{f'{case} {dtype}':24} {'MoE':>9} {'dense':>9} {'more':>9}"
    for name in NAMES:
        a, b = (1e3 * statistics.median(turn[name] for turn in turns) for turns in (mixture, twin))
        yield f"{name:24} {a:9.2f} {b:9.2f} {a - b:9.2f}"
    a, b = (1e3 * statistics.median(sum(turn.values()) for turn in turns) for turns in (mixture, twin))
    yield f"{'all':24} {a:9.2f} {b:9.2f} {a - b:9.2f}   MoE/dense {a / b:.3f}"
