"""Exact search over one collection in memory: every vector is compared with the query.

A cache of what the store holds; it can be thrown away and built again.
"""

# N = items, D = embedding width

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmoe_serve.retrieval.filters import Metadata, Predicate

_MIN_CAPACITY = 64

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One stored item. vector: float32 [D], of unit length."""

    id: str
    vector: Vectors
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Hit:
    """One found item. score: cosine similarity."""

    id: str
    score: float
    metadata: Metadata


class Index:
    """The items of one collection. Safe to use from several threads."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._lock = threading.Lock()
        self._vectors_ND: Vectors = np.zeros((_MIN_CAPACITY, dim), np.float32)
        self._ids: list[str] = []
        self._metadata: list[Metadata] = []
        self._rows: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def upsert(self, items: Sequence[Item]) -> None:
        """Add items, or replace those whose id is there."""
        with self._lock:
            for item in items:
                row = self._rows.get(item.id)
                if row is None:
                    row = self._append(item.id)
                self._vectors_ND[row] = item.vector
                self._metadata[row] = item.metadata

    def delete(self, item_id: str) -> bool:
        """Drop an item; False if it is not there."""
        with self._lock:
            row = self._rows.pop(item_id, None)
            if row is None:
                return False
            # the last row moves into the gap, so that the vectors stay contiguous
            last_id, last_metadata = self._ids.pop(), self._metadata.pop()
            if last_id != item_id:
                self._vectors_ND[row] = self._vectors_ND[len(self._ids)]
                self._ids[row], self._metadata[row] = last_id, last_metadata
                self._rows[last_id] = row
            return True

    def search(self, query_D: Vectors, top_k: int, keep: Predicate | None = None) -> list[Hit]:
        """The `top_k` most similar items that `keep` lets through, best first; equal scores by id."""
        with self._lock:
            rows = np.arange(len(self._ids))
            scores = self._vectors_ND[: len(self._ids)] @ query_D
            if keep is not None:
                rows = np.array([row for row in rows if keep(self._metadata[row])], dtype=np.intp)
                scores = scores[rows]
            if len(rows) > top_k:
                # everything as good as the last place, so that ties are settled by id and not by position
                worst = np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
                rows, scores = rows[scores >= worst], scores[scores >= worst]
            order = sorted(range(len(rows)), key=lambda i: (-scores[i], self._ids[rows[i]]))[:top_k]
            return [Hit(self._ids[rows[i]], float(scores[i]), self._metadata[rows[i]]) for i in order]

    def _append(self, item_id: str) -> int:
        row = len(self._ids)
        if row == len(self._vectors_ND):
            self._vectors_ND = np.concatenate([self._vectors_ND, np.zeros_like(self._vectors_ND)])
        self._ids.append(item_id)
        self._metadata.append({})
        self._rows[item_id] = row
        return row
