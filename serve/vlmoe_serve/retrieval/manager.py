"""Collections for the event loop: writes go to the store first and then to the index, searches ask the index.

    upsert -> writer thread: store (commit) -> index
    search -> reader thread: anything new in the store? -> search threads: index

Another server process may write to the same directory: before anything is read, the store is asked whether
somebody else changed it, and collections whose revision is new are loaded again.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vlmoe_serve.errors import NotFound, SpaceConflict, StoreUnavailable
from vlmoe_serve.retrieval.filters import Metadata, Predicate
from vlmoe_serve.retrieval.index import Hit, Index, Item, Vectors
from vlmoe_serve.retrieval.store import Collection, CollectionStore, StoreError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What users see of a collection."""

    name: str
    space_id: str
    count: int


@dataclass(slots=True)
class _Open:
    """A collection with its index. revision: of the store's state that the index shows."""

    row: Collection
    index: Index
    revision: int

    @property
    def info(self) -> CollectionInfo:
        return CollectionInfo(self.row.name, self.row.space_id, len(self.index))


class Collections:
    """All collections below one directory."""

    def __init__(self, directory: Path) -> None:
        """Open the store and load every index; blocks.

        Raises:
            StoreError: the store cannot be used.
        """
        self._writing, self._reading = CollectionStore(directory), CollectionStore(directory)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._searcher = ThreadPoolExecutor(2, thread_name_prefix="search")
        self._open: dict[str, _Open] = {}
        self._seen: dict[CollectionStore, int] = {}
        # held over commit + index change, and over loading: our own commit never looks like another's
        self._sync = threading.Lock()
        try:
            self._refresh(self._reading)
        except sqlite3.Error as error:
            raise StoreError(f"{directory}: {error}") from error

    def close(self) -> None:
        """Finish what was begun and close the store."""
        for pool in (self._writer, self._reader, self._searcher):
            pool.shutdown()
        self._writing.close()
        self._reading.close()

    def sizes(self) -> dict[str, int]:
        """Items in each collection, as far as this process knows."""
        return {name: len(opened.index) for name, opened in list(self._open.items())}

    async def put(self, name: str, space_id: str, dim: int) -> CollectionInfo:
        """Create a collection unless it is there with the same space."""

        def work() -> CollectionInfo:
            self._writing.put(name, space_id, dim)
            self._load_changed(self._writing)
            return self._get(name).info

        return await self._in(self._writer, work)

    async def all(self) -> list[CollectionInfo]:
        """All collections, by name."""
        await self._in(self._reader, lambda: self._refresh(self._reading))
        return [opened.info for _, opened in sorted(self._open.items())]

    async def get(self, name: str) -> CollectionInfo:
        """One collection."""
        await self._in(self._reader, lambda: self._refresh(self._reading))
        return self._get(name).info

    async def delete(self, name: str) -> None:
        """Drop a collection and its items."""

        def work() -> None:
            self._refresh(self._writing)
            self._writing.delete(self._get(name).row.key)
            self._load_changed(self._writing)

        await self._in(self._writer, work)

    async def upsert(self, name: str, space_id: str, items: Sequence[Item]) -> None:
        """Add or replace items; when this returns they are durable and found by searches."""

        def work() -> None:
            self._refresh(self._writing)
            opened = self._get(name)
            if opened.row.space_id != space_id:
                raise SpaceConflict(
                    f"collection {name!r} holds embeddings of space {opened.row.space_id}, not of {space_id}",
                    param="collection",
                )
            with self._sync:
                revision = self._writing.upsert(opened.row.key, items)
                self._apply(opened, revision, lambda: opened.index.upsert(items))
            if revision is None:
                raise _unknown(name)

        await self._in(self._writer, work)

    async def delete_item(self, name: str, item_id: str) -> None:
        """Drop one item."""

        def work() -> None:
            self._refresh(self._writing)
            opened = self._get(name)
            with self._sync:
                revision = self._writing.delete_item(opened.row.key, item_id)
                self._apply(opened, revision, lambda: opened.index.delete(item_id))
            if revision is None:
                raise _no_item(name, item_id)

        await self._in(self._writer, work)

    async def page(self, name: str, after: str, limit: int) -> list[tuple[str, Metadata]]:
        """The first `limit` (id, metadata) whose id comes after `after`."""

        def work() -> list[tuple[str, Metadata]]:
            self._refresh(self._reading)
            return self._reading.page(self._get(name).row.key, after, limit)

        return await self._in(self._reader, work)

    async def metadata(self, name: str, item_id: str) -> Metadata:
        """One item's metadata."""

        def work() -> Metadata:
            self._refresh(self._reading)
            found = self._reading.metadata(self._get(name).row.key, item_id)
            if found is None:
                raise _no_item(name, item_id)
            return found

        return await self._in(self._reader, work)

    async def search(self, name: str, query: Vectors, top_k: int, keep: Predicate | None) -> list[Hit]:
        """The most similar items that `keep` lets through, best first."""
        await self._in(self._reader, lambda: self._refresh(self._reading))
        index = self._get(name).index
        return await self._in(self._searcher, lambda: index.search(query, top_k, keep))

    def _get(self, name: str) -> _Open:
        opened = self._open.get(name)
        if opened is None:
            raise _unknown(name)
        return opened

    def _refresh(self, store: CollectionStore) -> None:
        version = store.version()
        if version != self._seen.get(store):
            self._load_changed(store)
            # only now: what could not be loaded is tried again
            self._seen[store] = version

    def _load_changed(self, store: CollectionStore) -> None:
        with self._sync:
            rows = {row.name: row for row in store.collections()}
            for name in [name for name in self._open if name not in rows]:
                del self._open[name]
            for name, row in rows.items():
                opened = self._open.get(name)
                if opened is None or opened.row.key != row.key or opened.revision != row.revision:
                    self._load(store, row.key)

    def _load(self, store: CollectionStore, key: int) -> None:
        row, items = store.load(key)
        if row is not None:
            index = Index(row.dim)
            index.upsert(items)
            self._open[row.name] = _Open(row, index, row.revision)

    def _apply(self, opened: _Open, revision: int | None, change: Callable[[], object]) -> None:
        """Bring the index to a revision that has just been committed."""
        if revision is None:
            return
        if revision == opened.revision + 1:
            change()
            opened.revision = revision
        else:
            # another process committed in between; what it wrote is missing here
            self._load(self._writing, opened.row.key)

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except (sqlite3.Error, StoreError, OSError) as error:
            raise StoreUnavailable(f"the collections' store failed: {error}") from error


def _unknown(name: str) -> NotFound:
    return NotFound(f"no collection {name!r}", code="collection_not_found", param="collection")


def _no_item(name: str, item_id: str) -> NotFound:
    return NotFound(f"no item {item_id!r} in collection {name!r}", code="item_not_found", param="id")
