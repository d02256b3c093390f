"""What a trace says about load: tokens of every sequence on every expert, and what ranks see of it.

    rows of a trace --read_trace--> Load --at_ranks(N)--> StepLoad
                     window, only: parts of it

`Load` knows sequences and no ranks, so one trace can be planned for any number of them.
"""

# Q = sequences, S = steps, L = MoE layers, X = experts of both pools, G = ranks

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int32]

# what a sequence can hold
KINDS = ("image", "text", "pair")


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Routed tokens by sequence.

    layers, pools: as in `Placement`. step_Q: position of each sequence's step, 0 .. S - 1, ascending. tokens_Q:
    tokens of each sequence. counts_QLX: choices of each sequence for each expert. rank_Q: its home when the trace
    was recorded. num_ranks: ranks of the recording.
    """

    layers: tuple[int, ...]
    pools: tuple[int, int]
    step_Q: npt.NDArray[np.int64]
    tokens_Q: npt.NDArray[np.int64]
    counts_QLX: npt.NDArray[np.uint16] | Counts
    rank_Q: npt.NDArray[np.int16]
    num_ranks: int = 1

    @property
    def num_steps(self) -> int:
        """Steps with at least one sequence."""
        return int(self.step_Q[-1]) + 1 if len(self.step_Q) else 0

    @property
    def num_sequences(self) -> int:
        """Sequences of all steps."""
        return len(self.step_Q)

    def window(self, first: int, last: int) -> "Load":
        """Steps first .. last - 1."""
        return self.only((self.step_Q >= first) & (self.step_Q < last))

    def only(self, keep_Q: npt.NDArray[np.bool_]) -> "Load":
        """Some of the sequences; steps that lose all of theirs close up."""
        return self.regrouped(np.unique(self.step_Q[keep_Q], return_inverse=True)[1], keep_Q)

    def regrouped(self, step_Q: npt.NDArray[np.intp], keep_Q: npt.NDArray[np.bool_] | None = None) -> "Load":
        """The kept sequences in other steps, ascending."""
        keep = slice(None) if keep_Q is None else keep_Q
        return Load(
            self.layers,
            self.pools,
            step_Q.astype(np.int64),
            self.tokens_Q[keep],
            self.counts_QLX[keep],
            self.rank_Q[keep],
            self.num_ranks,
        )

    def modality_Q(self) -> npt.NDArray[np.str_]:
        """What each sequence holds, by where it was routed: "image", "text", or "pair"."""
        has_image = self.counts_QLX[:, :, : self.pools[0]].any(axis=(1, 2))
        has_text = self.counts_QLX[:, :, self.pools[0] :].any(axis=(1, 2))
        return np.select([has_image & has_text, has_image], ["pair", "image"], "text")


@dataclass(frozen=True, slots=True, eq=False)
class StepLoad:
    """The same by home rank. counts_LSXG: choices that rank g's tokens make for an expert. home_SG: tokens at home."""

    layers: tuple[int, ...]
    pools: tuple[int, int]
    counts_LSXG: Counts
    home_SG: npt.NDArray[np.int64]

    @property
    def num_steps(self) -> int:
        """Steps."""
        return int(self.home_SG.shape[0])

    @property
    def num_ranks(self) -> int:
        """Ranks."""
        return int(self.home_SG.shape[1])

    @property
    def per_expert_LSX(self) -> Counts:
        """Choices for each expert, wherever they come from."""
        total_LSX: Counts = self.counts_LSXG.sum(axis=3, dtype=np.int32)
        return total_LSX

    def steps(self, chosen: npt.NDArray[np.intp]) -> "StepLoad":
        """Some of the steps."""
        return StepLoad(self.layers, self.pools, self.counts_LSXG[:, chosen], self.home_SG[chosen])

    def only_pool(self, pool: int) -> "StepLoad":
        """As if only one modality were asked for; steps without it are left out. Homes stay."""
        counts = self.counts_LSXG.copy()
        first = self.pools[0]
        counts[:, :, first:] = counts[:, :, first:] if pool else 0
        counts[:, :, :first] = 0 if pool else counts[:, :, :first]
        kept = counts.any(axis=(0, 2, 3))
        return StepLoad(self.layers, self.pools, counts[:, kept], self.home_SG[kept])


def at_ranks(load: Load, num_ranks: int) -> StepLoad:
    """The load as `num_ranks` ranks see it.

    A trace recorded at that number keeps its homes; otherwise sequences are balanced over ranks, the longest first, as
    the engine does.
    """
    if num_ranks < 1:
        raise ValueError(f"ranks must be at least 1, got {num_ranks}")
    if num_ranks == load.num_ranks:
        home_Q = load.rank_Q.astype(np.int64)
    else:
        home_Q = balanced_homes(load.step_Q, load.tokens_Q, num_ranks)
    shape = (load.num_steps, num_ranks)
    cell_Q = load.step_Q * num_ranks + home_Q
    home = np.bincount(cell_Q, load.tokens_Q, minlength=shape[0] * num_ranks).astype(np.int64).reshape(shape)
    counts = np.zeros((*shape, *load.counts_QLX.shape[1:]), np.int32)
    np.add.at(counts.reshape(-1, *counts.shape[2:]), cell_Q, load.counts_QLX)
    return StepLoad(load.layers, load.pools, np.ascontiguousarray(counts.transpose(2, 0, 3, 1)), home)


def balanced_homes(
    step_Q: npt.NDArray[np.int64], tokens_Q: npt.NDArray[np.int64], num_ranks: int
) -> npt.NDArray[np.int64]:
    """[sequences]: the rank of each; in every step the longest sequence goes first, to the least loaded rank."""
    home_Q = np.empty(len(step_Q), np.int64)
    order = np.lexsort((-tokens_Q, step_Q))
    held: list[int] = []
    step = None
    for q in order.tolist():
        if step_Q[q] != step:
            step, held = step_Q[q], [0] * num_ranks
        rank = held.index(min(held))
        home_Q[q] = rank
        held[rank] += int(tokens_Q[q])
    return home_Q


def with_mix(load: Load, shares: Mapping[str, float], seed: int = 0) -> Load:
    """As many sequences, in one step, of each modality as many as asked for; they come again if there are too few.

    Args:
        load: where the sequences come from; their order within a modality stays.
        shares: of image, text and pair, in proportion.
        seed: of the order in which modalities follow each other.

    Raises:
        ValueError: one is asked for that the load has none of.
    """
    modality_Q = load.modality_Q()
    names = [name for name, share in shares.items() if share > 0]
    of_kind = [np.flatnonzero(modality_Q == name) for name in names]
    for name, found in zip(names, of_kind, strict=True):
        if not len(found):
            raise ValueError(f"there is no {name} among the {load.num_sequences} sequences")
    weights = np.array([shares[name] for name in names])
    kind_Q = np.random.default_rng(seed).choice(len(names), load.num_sequences, p=weights / weights.sum())
    pick_Q = np.empty(load.num_sequences, np.intp)
    for kind, found in enumerate(of_kind):
        mine = np.flatnonzero(kind_Q == kind)
        pick_Q[mine] = np.resize(found, len(mine))
    return Load(
        load.layers,
        load.pools,
        np.zeros(load.num_sequences, np.int64),
        load.tokens_Q[pick_Q],
        load.counts_QLX[pick_Q],
        load.rank_Q[pick_Q],
        load.num_ranks,
    )


def joined(parts: Sequence[Load]) -> Load:
    """Loads of one model, one after the other in time."""
    first = parts[0]
    offsets = np.cumsum([0, *(part.num_steps for part in parts[:-1])])
    return Load(
        first.layers,
        first.pools,
        np.concatenate([part.step_Q + offset for part, offset in zip(parts, offsets, strict=True)]),
        np.concatenate([part.tokens_Q for part in parts]),
        np.concatenate([part.counts_QLX for part in parts]),
        np.concatenate([part.rank_Q for part in parts]),
        first.num_ranks,
    )
