"""Counts what experts and ranks have to do, cheaply enough to be always on.

A layer's counts are kept as they come; they are added up once a batch, and taken whenever somebody asks.
"""

# L = MoE layers, X = experts of both pools, W = ranks

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlmoe_model.config import ModelConfig
from vlmoe_serve.engine.report import ExpertLoad

Counts = npt.NDArray[np.int64]


class ExpertMeter:
    """Of one model, on rank 0, which sees the counts of all ranks. token_bytes: a token on the wire, one way."""

    def __init__(self, config: ModelConfig, num_ranks: int, token_bytes: int) -> None:
        self._place = {block: place for place, block in enumerate(sorted(config.moe_blocks))}
        self._pools = (config.num_experts, config.num_experts)
        self._num_ranks = num_ranks
        self._token_bytes = token_bytes
        self._seen: list[tuple[int, Sequence[int] | Counts, Counts | None]] = []
        self._total = self._nothing()
        # told the counts of a step on several ranks, [layers, experts, ranks]
        self.on_step: Callable[[Counts], None] | None = None

    def observe(self, block: int, counts: Sequence[int] | Counts, flow_XWW: Counts | None) -> None:
        """One layer. counts: of each routed group, or on several ranks [X, W] with `flow_XWW`, where they went."""
        self._seen.append((self._place[block], counts, flow_XWW))

    def add(self, block: int, counts: Sequence[int], num_steps: int) -> None:
        """One layer on one rank, over some steps that a device has counted by itself."""
        num_rows, total = sum(counts), self._total
        total.tokens_LX[self._place[block]] += np.array(counts, np.int64)
        self._total = ExpertLoad(
            total.layers,
            total.pools,
            total.tokens_LX,
            total.rank_tokens_G + num_rows,
            total.num_layers + num_steps,
            total.busiest + num_rows,
            total.mean + num_rows,
            # the only rank is the busiest, and the mean one
            total.ratio + num_steps,
            total.balance + num_steps,
            total.all_to_all_bytes,
        )

    def end_step(self) -> None:
        """A batch is done."""
        seen, self._seen = self._seen, []
        if not seen:
            return
        total = self._total
        places = [place for place, _, _ in seen]
        if self._num_ranks == 1:
            counts_LX = np.array([counts for _, counts, _ in seen], np.int64)
            busy_LW = counts_LX.sum(axis=1, keepdims=True)
            crossing = 0
        else:
            counts_LXW = np.array([counts for _, counts, _ in seen])
            if self.on_step is not None:
                self.on_step(counts_LXW)
            counts_LX = counts_LXW.sum(axis=2)
            flow_LWW = np.array([flow for _, _, flow in seen]).sum(axis=1)
            busy_LW = flow_LWW.sum(axis=1)
            crossing = int(flow_LWW.sum() - np.trace(flow_LWW, axis1=1, axis2=2).sum())
        np.add.at(total.tokens_LX, places, counts_LX)
        busiest_L, mean_L = busy_LW.max(axis=1), busy_LW.mean(axis=1)
        work = mean_L > 0
        busiest_L, mean_L = busiest_L[work], mean_L[work]
        self._total = ExpertLoad(
            total.layers,
            total.pools,
            total.tokens_LX,
            total.rank_tokens_G + busy_LW.sum(axis=0),
            total.num_layers + len(mean_L),
            total.busiest + float(busiest_L.sum()),
            total.mean + float(mean_L.sum()),
            total.ratio + float((busiest_L / mean_L).sum()),
            total.balance + float((mean_L / busiest_L).sum()),
            total.all_to_all_bytes + 2 * crossing * self._token_bytes,
        )

    def take(self) -> ExpertLoad:
        """Everything since the last time."""
        taken, self._total = self._total, self._nothing()
        return taken

    def _nothing(self) -> ExpertLoad:
        return ExpertLoad(
            tuple(self._place),
            self._pools,
            np.zeros((len(self._place), sum(self._pools)), np.int64),
            np.zeros(self._num_ranks, np.int64),
            *(0, 0.0, 0.0, 0.0, 0.0, 0),
        )


def resident_bytes() -> int:
    """Memory of this process that lies in RAM, shared pages included; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
