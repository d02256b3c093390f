"""The methods of collections and of the server itself for asyncio: each builds a call (`_store`) and sends it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Unpack

from . import _store
from ._call import CallOptions
from ._errors import NotFound
from ._images import ImageSource
from ._results import (
    AddResult,
    Collection,
    Item,
    Model,
)
from ._transport import AsyncTransport


class AsyncStoreMethods(AsyncTransport):
    """Filling, listing, deleting; models and health."""

    async def add(
        self,
        collection: str,
        images: Mapping[str, ImageSource] | None = None,
        *,
        texts: Mapping[str, str] | None = None,
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        model: str | None = None,
        **options: Unpack[CallOptions],
    ) -> AddResult:
        """Store items in a collection, in chunks; the collection is made when it is missing."""
        calls = _store.add(collection, images, texts=texts, metadata=metadata, model=model)
        try:
            await self.get_collection(collection, **options)
        except NotFound:
            await self.put_collection(collection, model=model, **options)
        return _store.merge([part async for part in self._send_each(calls, options)])

    async def put_collection(
        self, name: str, *, model: str | None = None, **options: Unpack[CallOptions]
    ) -> Collection:
        """Make a collection; one that exists stays as it is."""
        return await self._send(_store.put_collection(name, model=model), options)

    async def get_collection(self, name: str, **options: Unpack[CallOptions]) -> Collection:
        """Describe a collection."""
        return await self._send(_store.get_collection(name), options)

    async def list_collections(self, **options: Unpack[CallOptions]) -> list[Collection]:
        """All collections."""
        return await self._send(_store.list_collections(), options)

    async def delete_collection(self, name: str, **options: Unpack[CallOptions]) -> None:
        """Delete a collection and its items."""
        await self._send(_store.delete_collection(name), options)

    async def list_items(
        self, collection: str, *, page_size: int = _store.PAGE_SIZE, **options: Unpack[CallOptions]
    ) -> AsyncIterator[Item]:
        """All items of a collection, fetched page by page as they are taken."""
        cursor: str | None = None
        while True:
            page = await self._send(_store.list_items(collection, cursor=cursor, limit=page_size), options)
            for item in page.items:
                yield item
            if page.cursor is None:
                return
            cursor = page.cursor

    async def get_item(self, collection: str, id: str, **options: Unpack[CallOptions]) -> Item:
        """One item."""
        return await self._send(_store.get_item(collection, id), options)

    async def delete_item(self, collection: str, id: str, **options: Unpack[CallOptions]) -> None:
        """Delete one item."""
        await self._send(_store.delete_item(collection, id), options)

    async def list_models(self, **options: Unpack[CallOptions]) -> list[Model]:
        """The models that the server has."""
        return await self._send(_store.list_models(), options)

    async def healthy(self, **options: Unpack[CallOptions]) -> bool:
        """Whether the server lives; False also when nobody is reached."""
        return await self._check(_store.health("/healthz"), options)

    async def ready(self, **options: Unpack[CallOptions]) -> bool:
        """Whether the server can answer; False also when nobody is reached."""
        return await self._check(_store.health("/readyz"), options)
