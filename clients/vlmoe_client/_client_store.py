"""The blocking methods of collections and of the server itself: each builds a call (`_store`) and sends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from ._transport import Blocking


class StoreMethods(Blocking):
    """Filling, listing, deleting; models and health."""

    def add(
        self,
        collection: str,
        images: Mapping[str, ImageSource] | None = None,
        *,
        texts: Mapping[str, str] | None = None,
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        model: str | None = None,
        **options: Unpack[CallOptions],
    ) -> AddResult:
        """Store items in a collection, in chunks; the collection is made when it is missing.

        Items that have an id in use replace the old ones, so an interrupted `add` can simply be done again.

        Args:
            collection: Its name.
            images: Pictures by id.
            texts: Texts by id; an item is one or the other.
            metadata: By id, for any of the items; `retrieve` can filter on it.
            model: Whose embeddings the collection holds, where the server has several models.
            **options: Of each request.
        """
        calls = _store.add(collection, images, texts=texts, metadata=metadata, model=model)
        try:
            self.get_collection(collection, **options)
        except NotFound:
            self.put_collection(collection, model=model, **options)
        return _store.merge(self._send_each(calls, options))

    def put_collection(
        self, name: str, *, model: str | None = None, **options: Unpack[CallOptions]
    ) -> Collection:
        """Make a collection; one that exists stays as it is."""
        return self._send(_store.put_collection(name, model=model), options)

    def get_collection(self, name: str, **options: Unpack[CallOptions]) -> Collection:
        """Describe a collection."""
        return self._send(_store.get_collection(name), options)

    def list_collections(self, **options: Unpack[CallOptions]) -> list[Collection]:
        """All collections."""
        return self._send(_store.list_collections(), options)

    def delete_collection(self, name: str, **options: Unpack[CallOptions]) -> None:
        """Delete a collection and its items."""
        self._send(_store.delete_collection(name), options)

    def list_items(
        self, collection: str, *, page_size: int = _store.PAGE_SIZE, **options: Unpack[CallOptions]
    ) -> Iterator[Item]:
        """All items of a collection, fetched page by page as they are taken."""
        cursor: str | None = None
        while True:
            page = self._send(_store.list_items(collection, cursor=cursor, limit=page_size), options)
            yield from page.items
            if page.cursor is None:
                return
            cursor = page.cursor

    def get_item(self, collection: str, id: str, **options: Unpack[CallOptions]) -> Item:
        """One item."""
        return self._send(_store.get_item(collection, id), options)

    def delete_item(self, collection: str, id: str, **options: Unpack[CallOptions]) -> None:
        """Delete one item."""
        self._send(_store.delete_item(collection, id), options)

    def list_models(self, **options: Unpack[CallOptions]) -> list[Model]:
        """The models that the server has."""
        return self._send(_store.list_models(), options)

    def healthy(self, **options: Unpack[CallOptions]) -> bool:
        """Whether the server lives; False also when nobody is reached."""
        return self._check(_store.health("/healthz"), options)

    def ready(self, **options: Unpack[CallOptions]) -> bool:
        """Whether the server can answer; False also when nobody is reached."""
        return self._check(_store.health("/readyz"), options)
