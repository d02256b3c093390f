import asyncio
import contextlib
import sqlite3

import numpy as np
import pytest

from vlmoe_serve.errors import NotFound, SpaceConflict, StoreUnavailable
from vlmoe_serve.retrieval.index import Item
from vlmoe_serve.retrieval.manager import CollectionInfo, Collections
from vlmoe_serve.retrieval.store import FILE_NAME, StoreError

QUERY = np.array([1, 0], np.float32)


def item(item_id, angle=0.0, **metadata):
    return Item(item_id, np.array([np.cos(angle), np.sin(angle)], np.float32), metadata)


def tamper(directory, statement):
    with contextlib.closing(sqlite3.connect(directory / FILE_NAME)) as db, db:
        db.execute(statement)


@pytest.fixture
def collections(tmp_path):
    collections = Collections(tmp_path)
    yield collections
    collections.close()


def ids(hits):
    return [hit.id for hit in hits]


def test_items_are_found_and_survive_a_restart(collections, tmp_path):
    async def fill():
        assert await collections.put("g", "s", 2) == CollectionInfo("g", "s", 0)
        await collections.upsert("g", "s", [item("far", 1.5), item("near", 0.1, n=1), item("mid", 0.8)])
        await collections.upsert("g", "s", [item("far", 1.4, n=2)])
        await collections.delete_item("g", "mid")
        return await collections.search("g", QUERY, 10, None)

    hits = asyncio.run(fill())
    assert ids(hits) == ["near", "far"]
    again = Collections(tmp_path)
    assert asyncio.run(again.search("g", QUERY, 10, None)) == hits
    assert asyncio.run(again.put("g", "s", 2)) == CollectionInfo("g", "s", 2)
    assert again.sizes() == {"g": 2}
    again.close()


def test_pages_filters_and_single_items(collections):
    async def check():
        await collections.put("g", "s", 2)
        await collections.upsert("g", "s", [item(f"i{n}", n / 10, n=n) for n in range(5)])
        assert [i for i, _ in await collections.page("g", "i1", 2)] == ["i2", "i3"]
        assert await collections.metadata("g", "i3") == {"n": 3}
        assert ids(await collections.search("g", QUERY, 2, lambda metadata: metadata["n"] > 2)) == [
            "i3",
            "i4",
        ]

    asyncio.run(check())


def test_what_is_not_there_is_named(collections):
    async def check():
        for call in (
            collections.get("g"),
            collections.delete("g"),
            collections.page("g", "", 1),
            collections.search("g", QUERY, 1, None),
            collections.upsert("g", "s", [item("a")]),
            collections.delete_item("g", "a"),
        ):
            with pytest.raises(NotFound) as caught:
                await call
            assert caught.value.code == "collection_not_found"
        await collections.put("g", "s", 2)
        for call in (collections.metadata("g", "a"), collections.delete_item("g", "a")):
            with pytest.raises(NotFound) as caught:
                await call
            assert caught.value.code == "item_not_found"

    asyncio.run(check())


def test_another_space_is_refused(collections):
    async def check():
        await collections.put("g", "s", 2)
        with pytest.raises(SpaceConflict):
            await collections.put("g", "other", 2)
        with pytest.raises(SpaceConflict):
            await collections.upsert("g", "other", [item("a")])
        assert (await collections.get("g")).count == 0

    asyncio.run(check())


def test_two_processes_on_one_directory_see_each_other(collections, tmp_path):
    other = Collections(tmp_path)

    async def check():
        await collections.put("g", "s", 2)
        assert [info.name for info in await other.all()] == ["g"]
        for turn in range(3):
            await other.upsert("g", "s", [item(f"theirs{turn}", turn)])
            await collections.upsert("g", "s", [item(f"ours{turn}", turn)])
            ours, theirs = [await c.search("g", QUERY, 99, None) for c in (collections, other)]
            assert ours == theirs
            assert len(ours) == 2 * (turn + 1)
        await other.delete("g")
        await other.put("g", "s2", 2)
        assert await collections.get("g") == CollectionInfo("g", "s2", 0)

    asyncio.run(check())
    other.close()


def test_many_writers_at_once_lose_nothing(collections):
    async def check():
        await collections.put("g", "s", 2)
        await asyncio.gather(
            *(collections.upsert("g", "s", [item(f"{n}-{m}") for m in range(5)]) for n in range(20)),
            *(collections.search("g", QUERY, 5, None) for _ in range(20)),
        )
        assert (await collections.get("g")).count == 100
        assert len(await collections.page("g", "", 1000)) == 100

    asyncio.run(check())


def test_a_store_that_fails_is_our_fault_and_changes_no_answer(collections, tmp_path):
    async def check():
        await collections.put("g", "s", 2)
        tamper(tmp_path, "ALTER TABLE items RENAME TO hidden")
        with pytest.raises(StoreUnavailable):
            await collections.upsert("g", "s", [item("a")])
        tamper(tmp_path, "ALTER TABLE hidden RENAME TO items")
        await collections.upsert("g", "s", [item("a")])
        assert ids(await collections.search("g", QUERY, 5, None)) == ["a"]

    asyncio.run(check())


def test_what_could_not_be_loaded_is_tried_again(collections, tmp_path):
    other = Collections(tmp_path)

    async def check():
        await other.put("g", "s", 2)
        await other.upsert("g", "s", [item("a")])
        tamper(tmp_path, "ALTER TABLE items RENAME TO hidden")
        with pytest.raises(StoreUnavailable):
            await collections.search("g", QUERY, 5, None)
        tamper(tmp_path, "ALTER TABLE hidden RENAME TO items")
        assert ids(await collections.search("g", QUERY, 5, None)) == ["a"]

    asyncio.run(check())
    other.close()


def test_a_broken_store_is_refused_at_the_start(collections, tmp_path):
    asyncio.run(collections.put("g", "s", 2))
    asyncio.run(collections.upsert("g", "s", [item("a")]))
    tamper(tmp_path, "UPDATE items SET vector = x'00'")
    with pytest.raises(StoreError, match="'a'"):
        Collections(tmp_path)
