"""Collections in SQLite: the durable truth. Blocking; one instance belongs to one thread.

What a method has returned from is on the disk (write-ahead log, synchronous=FULL). Every change raises the
collection's revision, by which holders of a cache see that it is out of date.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlmoe_serve.errors import SpaceConflict
from vlmoe_serve.retrieval.filters import Metadata
from vlmoe_serve.retrieval.index import Item

FILE_NAME = "collections.sqlite"
_VERSION = 1
_SCHEMA = """
CREATE TABLE collections (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    space_id TEXT NOT NULL,
    dim INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE items (
    collection INTEGER NOT NULL REFERENCES collections(key) ON DELETE CASCADE,
    id TEXT NOT NULL,
    vector BLOB NOT NULL,
    metadata TEXT NOT NULL,
    PRIMARY KEY (collection, id)
) WITHOUT ROWID;
"""


class StoreError(ValueError):
    """The file is not ours, is broken, or cannot be opened; one line that names it."""


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection as stored. key: never used again for another, even of the same name."""

    key: int
    name: str
    space_id: str
    dim: int
    revision: int


class CollectionStore:
    """The collections below one directory."""

    def __init__(self, directory: Path) -> None:
        """Open or create the file in `directory`.

        Raises:
            StoreError: the directory or the file cannot be used.
        """
        path = directory / FILE_NAME
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # one thread uses it, though not the one that opened it; transactions are begun by hand
            self._db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path}: cannot be opened: {error}") from error
        try:
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._create()
        except (sqlite3.Error, StoreError) as error:
            self._db.close()
            raise StoreError(f"{path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def version(self) -> int:
        """A number that differs from the last one when another connection has changed anything."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(version)

    def collections(self) -> list[Collection]:
        """All collections, by name."""
        rows = self._db.execute("SELECT key, name, space_id, dim, revision FROM collections ORDER BY name")
        return [Collection(*row) for row in rows]

    def put(self, name: str, space_id: str, dim: int) -> None:
        """Create a collection unless it is there.

        Raises:
            SpaceConflict: it is there, with vectors of another space.
        """
        with self._transaction():
            found = self._db.execute("SELECT space_id FROM collections WHERE name = ?", (name,)).fetchone()
            if found is None:
                self._db.execute(
                    "INSERT INTO collections (name, space_id, dim) VALUES (?, ?, ?)", (name, space_id, dim)
                )
            elif found[0] != space_id:
                raise SpaceConflict(
                    f"collection {name!r} holds embeddings of space {found[0]}, not of {space_id}",
                    param="collection",
                )

    def delete(self, key: int) -> None:
        """Drop a collection with all its items."""
        with self._transaction():
            self._db.execute("DELETE FROM collections WHERE key = ?", (key,))

    def upsert(self, key: int, items: Sequence[Item]) -> int | None:
        """Add or replace items; the new revision, or None when the collection is gone."""
        rows = [
            (key, item.id, item.vector.astype("<f4").tobytes(), json.dumps(item.metadata, ensure_ascii=False))
            for item in items
        ]
        with self._transaction():
            revision = self._raise_revision(key)
            if revision is not None:
                self._db.executemany("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)", rows)
            return revision

    def delete_item(self, key: int, item_id: str) -> int | None:
        """Drop an item; the new revision, or None when it is not there."""
        with self._transaction():
            gone = self._db.execute("DELETE FROM items WHERE collection = ? AND id = ?", (key, item_id))
            return self._raise_revision(key) if gone.rowcount else None

    def page(self, key: int, after: str, limit: int) -> list[tuple[str, Metadata]]:
        """The first `limit` (id, metadata) whose id comes after `after`, by id."""
        rows = self._db.execute(
            "SELECT id, metadata FROM items WHERE collection = ? AND id > ? ORDER BY id LIMIT ?",
            (key, after, limit),
        )
        return [(item_id, json.loads(metadata)) for item_id, metadata in rows]

    def metadata(self, key: int, item_id: str) -> Metadata | None:
        """One item's metadata, or None when it is not there."""
        row = self._db.execute(
            "SELECT metadata FROM items WHERE collection = ? AND id = ?", (key, item_id)
        ).fetchone()
        found: Metadata | None = None if row is None else json.loads(row[0])
        return found

    def load(self, key: int) -> tuple[Collection | None, list[Item]]:
        """A collection and all its items, of one moment; None when it is gone."""
        with _Transaction(self._db, "DEFERRED"):
            row = self._db.execute(
                "SELECT key, name, space_id, dim, revision FROM collections WHERE key = ?", (key,)
            ).fetchone()
            return (None, []) if row is None else (Collection(*row), list(self._items(Collection(*row))))

    def _items(self, collection: Collection) -> Iterator[Item]:
        rows = self._db.execute(
            "SELECT id, vector, metadata FROM items WHERE collection = ?", (collection.key,)
        )
        for item_id, blob, metadata in rows:
            if len(blob) != 4 * collection.dim:
                raise StoreError(
                    f"item {item_id!r} of collection {collection.name!r} has {len(blob)} bytes, "
                    f"not {4 * collection.dim}"
                )
            vector = np.frombuffer(blob, dtype="<f4").astype(np.float32, copy=False)
            yield Item(item_id, vector, json.loads(metadata))

    def _create(self) -> None:
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise StoreError("is a database of something else")
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise StoreError(f"has version {version}; this program knows version {_VERSION}")

    def _raise_revision(self, key: int) -> int | None:
        row = self._db.execute(
            "UPDATE collections SET revision = revision + 1 WHERE key = ? RETURNING revision", (key,)
        ).fetchone()
        return None if row is None else int(row[0])

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db, "IMMEDIATE")


class _Transaction:
    """BEGIN, then COMMIT, or ROLLBACK when anything raises, the commit itself included."""

    def __init__(self, db: sqlite3.Connection, kind: str) -> None:
        self._db = db
        self._kind = kind

    def __enter__(self) -> None:
        self._db.execute(f"BEGIN {self._kind}")

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
