import sqlite3

import numpy as np
import pytest

from vlmoe_serve.errors import SpaceConflict
from vlmoe_serve.retrieval.index import Item
from vlmoe_serve.retrieval.store import FILE_NAME, CollectionStore, StoreError


def item(item_id, **metadata):
    return Item(item_id, np.arange(3, dtype=np.float32), metadata)


@pytest.fixture
def store(tmp_path):
    store = CollectionStore(tmp_path / "data")
    yield store
    store.close()


def test_what_was_acknowledged_is_there_after_opening_again(store, tmp_path):
    store.put("g", "s-1", 3)
    key = store.collections()[0].key
    store.upsert(key, [item("a", n=1), item("b", text='"\u2603"\n')])
    # the first connection stays open, as after a crash
    again = CollectionStore(tmp_path / "data")
    row, items = again.load(key)
    assert (row.name, row.space_id, row.dim) == ("g", "s-1", 3)
    assert [(i.id, i.vector.tolist(), i.metadata) for i in items] == [
        ("a", [0.0, 1.0, 2.0], {"n": 1}),
        ("b", [0.0, 1.0, 2.0], {"text": '"\u2603"\n'}),
    ]
    again.close()


def test_it_is_durable_before_it_is_acknowledged(store):
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_collection_keeps_its_space(store):
    store.put("g", "s-1", 3)
    store.put("g", "s-1", 3)
    with pytest.raises(SpaceConflict):
        store.put("g", "s-2", 3)
    assert [row.space_id for row in store.collections()] == ["s-1"]


def test_items_are_replaced_listed_and_deleted(store):
    store.put("g", "s", 3)
    key = store.collections()[0].key
    assert store.upsert(key, [item("b"), item("a", v=1), item("c")]) == 1
    assert store.upsert(key, [item("a", v=2)]) == 2
    assert store.page(key, "", 2) == [("a", {"v": 2}), ("b", {})]
    assert store.page(key, "b", 2) == [("c", {})]
    assert store.metadata(key, "a") == {"v": 2}
    assert store.metadata(key, "z") is None
    assert store.delete_item(key, "z") is None
    assert store.delete_item(key, "a") == 3
    assert store.metadata(key, "a") is None


def test_a_deleted_collection_takes_its_items_and_its_key_along(store):
    store.put("g", "s", 3)
    key = store.collections()[0].key
    store.upsert(key, [item("a")])
    store.delete(key)
    assert store.upsert(key, [item("b")]) is None
    assert store.load(key) == (None, [])
    store.put("g", "s", 3)
    (row,) = store.collections()
    assert row.key != key
    assert store.load(row.key)[1] == []


def test_a_failed_change_changes_nothing(store):
    store.put("g", "s", 3)
    key = store.collections()[0].key
    with pytest.raises(UnicodeEncodeError):
        store.upsert(key, [item("a"), item("b\udc80")])
    assert store.collections()[0].revision == 0
    assert store.page(key, "", 9) == []
    assert store.upsert(key, [item("a")]) == 1


def test_changes_of_another_connection_are_noticed(store, tmp_path):
    other = CollectionStore(tmp_path / "data")
    before = store.version()
    store.put("mine", "s", 3)
    assert store.version() == before
    other.put("g", "s", 3)
    assert store.version() != before
    assert store.version() == store.version()
    other.close()


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to look like a file of some size" * 9, None]
)
def test_a_foreign_file_is_named(tmp_path, content):
    path = tmp_path / FILE_NAME
    if content is None:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE theirs (x)")
        other.close()
    else:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=str(path)):
        CollectionStore(tmp_path)


def test_a_newer_version_and_a_file_as_directory_are_refused(store, tmp_path):
    store._db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="version 99"):
        CollectionStore(tmp_path / "data")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        CollectionStore(tmp_path / "file")
