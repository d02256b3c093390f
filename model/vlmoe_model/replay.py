"""The encoder as recorded launches: one recording for every size of batch, played again on what lies in fixed memory.

    packed --Layout.write--> one copy to the device --Layout.read--> Packed of fixed tensors
    x [T, D] -----------------copy-------------------> fixed x  --play--> y [T, D]

A base model is some two hundred launches, and the host takes longer over them than the device, up to dozens of
pictures. A batch is played at the smallest size that holds it. Behind its last token lie tokens of no pool and no
sequence: no expert and no attention sees them, nobody reads them, and the bits of the others are what they are without.
What a recording does not know, it cannot say again: routing with a capacity, relative positions and ranks run as ever,
and so does what a device fails to record.
"""

# T = tokens of a size, A = rows of its attention table, P = pools

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vlmoe_kernels import Backend, RoutePlan
from vlmoe_kernels.ops import NormBackend, RoutingBackend, TableBackend
from vlmoe_model.config import ModelConfig
from vlmoe_model.encoder import Block, Encoder
from vlmoe_model.packing import POOLS, Packed, Tokens
from vlmoe_model.routing_mode import DEFAULT

_log = logging.getLogger(__name__)

Play = Callable[[], Tensor]
# makes a recording of a forward pass
Record = Callable[[Play], Play]
Words = npt.NDArray[np.int64]

# Larger batches keep the device busy for longer than the host takes to launch them.
MAX_TOKENS = 8192
# Sizes between a power of two and the next: few rows are computed for nothing.
_STEPS = 8
_SMALLEST = 16


@dataclass(frozen=True, slots=True)
class Size:
    """Tokens, and tiles of attention, that a recording has room for."""

    tokens: int
    tiles: int


def sizes(max_tokens: int = MAX_TOKENS) -> tuple[Size, ...]:
    """All of them, ascending."""
    tokens, found = _SMALLEST, []
    while tokens <= max_tokens:
        # room for texts of four tokens where there are few; a tile without queries costs little, but not nothing
        found.append(Size(tokens, max(min(tokens // 4, 128), tokens // 16)))
        tokens += max(_SMALLEST, (1 << (tokens.bit_length() - 1)) // _STEPS)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything about a batch's tokens lies in one row of 64-bit words."""

    size: Size

    @property
    def num_words(self) -> int:
        """Length of the row."""
        return sum(length for _, length in self._parts().values())

    def write(self, words: Words, packed: Packed, table: Words) -> None:
        """Write down a batch, whose tokens are on the host, and its attention table."""
        parts = {name: words[start : start + length] for name, (start, length) in self._parts().items()}
        parts["table"][: table.size] = table.ravel()
        parts["table"][table.size :] = 0
        for name, tokens in (("modality", packed.modality), ("fused", packed.fused)):
            plan, num_tokens = tokens.plan, packed.num_tokens
            pool, order, slots = parts[f"{name}.pool"], parts[f"{name}.order"], parts[f"{name}.slots"]
            pool[:num_tokens] = tokens.pool_T.numpy()
            pool[num_tokens:] = -1
            order[:num_tokens] = plan.order_R.numpy()
            order[num_tokens:] = 0
            slots[:num_tokens] = plan.slots_TK[:, 0].numpy()
            slots[num_tokens:] = -1
            offsets = parts[f"{name}.offsets"].view(np.int32)
            offsets[: len(plan.sizes) + 1] = [0, *accumulate(plan.sizes)]

    def read(self, words: Tensor) -> Packed:
        """The batch that is written there, as views: what is written next is another batch."""
        parts = {name: words[start : start + length] for name, (start, length) in self._parts().items()}

        def tokens(name: str, num_pools: int) -> Tokens:
            pool_T, order_R = parts[f"{name}.pool"], parts[f"{name}.order"]
            offsets = parts[f"{name}.offsets"].view(torch.int32)[: num_pools + 1]
            slots_TK = parts[f"{name}.slots"].unsqueeze(1)
            # how many rows a pool has is known to the device alone
            plan = RoutePlan(order_R, (0,) * num_pools, slots_TK, None, complete=True, offsets=offsets)
            onehot_TP = (pool_T.unsqueeze(1) == torch.arange(num_pools, device=words.device)).float()
            return Tokens(pool_T, onehot_TP, (order_R[:0],) * num_pools, plan, None)

        table = parts["table"].view(-1, 4)
        return Packed((), (), tokens("modality", len(POOLS) - 1), tokens("fused", len(POOLS)), DEFAULT, table)

    def _parts(self) -> Mapping[str, tuple[int, int]]:
        """Start and length of each."""
        lengths = {"table": 4 * self.size.tiles}
        for name in ("modality", "fused"):
            lengths |= {f"{name}.{part}": self.size.tokens for part in ("pool", "order", "slots")}
            # up to three pools in 32 bits each; an even number of words keeps what follows aligned
            lengths[f"{name}.offsets"] = 2
        starts = accumulate(lengths.values(), initial=0)
        return {name: (start, length) for (name, length), start in zip(lengths.items(), starts, strict=False)}


class Replay:
    """Plays an encoder that is packed for a device.

    record: makes the recordings; by default CUDA graphs.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: ModelConfig,
        backend: TableBackend,
        device: torch.device,
        record: Record,
    ) -> None:
        self._encoder, self._backend, self._record = encoder, backend, record
        self._num_heads = config.num_heads
        self._sizes = sizes()
        largest = self._sizes[-1]
        num_words = Layout(largest).num_words
        on_host = torch.zeros(num_words, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._on_host, self._written = on_host, on_host.numpy()
        self._words = torch.zeros(num_words, dtype=torch.int64, device=device)
        self._x_TD = torch.zeros(largest.tokens, config.dim, device=device)
        self._plays: dict[Size, Play] = {}
        self._gave_up = False

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        config: ModelConfig,
        backend: Backend,
        device: torch.device,
        record: Record | None = None,
    ) -> "Replay | None":
        """For an encoder whose launches can be recorded; None for others."""
        able = all(isinstance(backend, one) for one in (TableBackend, NormBackend, RoutingBackend))
        blocks = [block for block in encoder.blocks if isinstance(block, Block)]
        if not able or encoder.relative is not None or not all(block.ffn.needs_no_host for block in blocks):
            return None
        assert isinstance(backend, TableBackend)
        if record is None:
            if device.type != "cuda":
                return None
            record = recorder()
        return cls(encoder, config, backend, device, record)

    def prepare(self) -> None:
        """Record every size now, the largest first, whose memory the others share."""
        for size in reversed(self._sizes):
            self._play(size)

    def __call__(self, x_TD: Tensor, packed: Packed) -> Tensor | None:
        """As the encoder, for tokens on the host. None: this batch has to run as ever.

        Valid until the next call, which must not come before the device is done with this one.
        """
        if packed.mode != DEFAULT or packed.num_tokens > self._sizes[-1].tokens:
            return None
        dtype = self._encoder.row_dtype
        table = self._backend.attention_table(packed.attention_runs, self._num_heads, dtype, x_TD.device)
        size = next((s for s in self._sizes if s.tokens >= len(x_TD) and s.tiles >= len(table)), None)
        if size is None:
            return None
        play = self._play(size)
        if play is None:
            return None
        layout = Layout(size)
        layout.write(self._written, packed, table)
        self._words[: layout.num_words].copy_(self._on_host[: layout.num_words], non_blocking=True)
        self._x_TD[: len(x_TD)].copy_(x_TD)
        return play()[: len(x_TD)]

    def _play(self, size: Size) -> Play | None:
        if size not in self._plays and not self._gave_up:
            # words of another size would be read as indices
            self._words.zero_()
            try:
                self._plays[size] = self._record(partial(self._forward, size))
            except RuntimeError as error:
                self._gave_up = True
                _log.warning("launches are not recorded from here on: %s", " ".join(str(error).split()))
        return self._plays.get(size)

    def _forward(self, size: Size) -> Tensor:
        packed = Layout(size).read(self._words)
        y_TD: Tensor = self._encoder(self._x_TD[: size.tokens], packed)
        return y_TD


def recorder() -> Record:
    """Makes CUDA graphs that share their memory: none runs while another does, or while its output is still read."""
    pool = torch.cuda.graph_pool_handle()
    # torch's constructor says nothing of its type
    new_stream: Callable[[], torch.cuda.Stream] = torch.cuda.Stream
    stream = new_stream()

    def record(forward: Play) -> Play:
        stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            # compiles what is new at this size, which cannot be recorded
            forward()
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                output = forward()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)

        def play() -> Tensor:
            graph.replay()
            return output

        return play

    return record
