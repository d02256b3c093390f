"""The calls about collections, their items, and the server itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ._answers import read_added, read_collection, read_item, read_model
from ._call import Call, Reply, segment
from ._chunks import chunked
from ._images import ImageSource, Picture
from ._results import AddResult, Collection, Item, ItemError, Model

PAGE_SIZE = 500


@dataclass(frozen=True, slots=True)
class Page:
    """Some items, and where the next ones begin."""

    items: tuple[Item, ...]
    cursor: str | None


def put_collection(name: str, *, model: str | None = None) -> Call[Collection]:
    """`PUT /collections/{name}`."""
    body = {} if model is None else {"model": model}
    return Call(
        "PUT",
        _collection(name),
        lambda reply: read_collection(reply.json()),
        body,
        rpc="PutCollection",
        names={"name": name},
    )


def get_collection(name: str) -> Call[Collection]:
    """`GET /collections/{name}`."""
    return Call(
        "GET",
        _collection(name),
        lambda reply: read_collection(reply.json()),
        rpc="GetCollection",
        names={"name": name},
    )


def list_collections() -> Call[list[Collection]]:
    """`GET /collections`."""
    return Call(
        "GET",
        "/collections",
        lambda reply: [read_collection(each) for each in reply.json()["collections"]],
        rpc="ListCollections",
    )


def delete_collection(name: str) -> Call[None]:
    """`DELETE /collections/{name}`."""
    return Call(
        "DELETE", _collection(name), _nothing, repeatable=False, rpc="DeleteCollection", names={"name": name}
    )


def add(
    collection: str,
    images: Mapping[str, ImageSource] | None = None,
    *,
    texts: Mapping[str, str] | None = None,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
    model: str | None = None,
) -> Iterator[Call[AddResult]]:
    """`POST /collections/{name}/items`, as often as the items need."""
    images, texts, metadata = images or {}, texts or {}, metadata or {}
    if both := sorted(images.keys() & texts.keys()):
        raise ValueError(f"an item is an image or a text, {both[0]!r} is given as both")
    if unknown := sorted(metadata.keys() - images.keys() - texts.keys()):
        raise ValueError(f"metadata for {unknown[0]!r}, which is not among the items")
    if "" in images or "" in texts:
        raise ValueError("an item's id must not be empty")
    shared = {} if model is None else {"model": model}
    return _adds(collection, f"{_collection(collection)}/items", images, texts, metadata, shared)


def _adds(
    collection: str,
    path: str,
    images: Mapping[str, ImageSource],
    texts: Mapping[str, str],
    metadata: Mapping[str, Mapping[str, Any]],
    shared: Mapping[str, str],
) -> Iterator[Call[AddResult]]:
    def fields(id: str, content: dict[str, Any]) -> dict[str, Any]:
        return {"id": id, **content, **({"metadata": metadata[id]} if id in metadata else {})}

    def items() -> Iterator[dict[str, Any]]:
        for id, image in images.items():
            yield fields(id, {"image": Picture(image)})
        for id, text in texts.items():
            yield fields(id, {"text": text})

    for chunk in chunked(items()):
        body = {"items": chunk, **shared}
        names = {"collection": collection}
        yield Call("POST", path, lambda reply: read_added(reply.json()), body, rpc="UpsertItems", names=names)


def merge(parts: Iterable[AddResult]) -> AddResult:
    """The results of an add's chunks as one."""
    upserted = 0
    errors: dict[str, ItemError] = {}
    for part in parts:
        upserted += part.upserted
        errors.update(part.errors)
    return AddResult(upserted, errors)


def list_items(collection: str, *, cursor: str | None = None, limit: int = PAGE_SIZE) -> Call[Page]:
    """`GET /collections/{name}/items`, one page."""
    query = f"?limit={limit}" + ("" if cursor is None else f"&cursor={segment(cursor)}")
    names = {"collection": collection, "limit": limit, "cursor": cursor}
    return Call("GET", f"{_collection(collection)}/items{query}", _read_page, rpc="ListItems", names=names)


def get_item(collection: str, id: str) -> Call[Item]:
    """`GET /collections/{name}/items/{id}`."""
    return Call(
        "GET",
        f"{_collection(collection)}/items/{segment(id)}",
        lambda reply: read_item(reply.json()),
        rpc="GetItem",
        names={"collection": collection, "id": id},
    )


def delete_item(collection: str, id: str) -> Call[None]:
    """`DELETE /collections/{name}/items/{id}`."""
    return Call(
        "DELETE",
        f"{_collection(collection)}/items/{segment(id)}",
        _nothing,
        repeatable=False,
        rpc="DeleteItem",
        names={"collection": collection, "id": id},
    )


def list_models() -> Call[list[Model]]:
    """`GET /v1/models`."""
    return Call(
        "GET",
        "/v1/models",
        lambda reply: [read_model(each) for each in reply.json()["data"]],
        rpc="ListModels",
    )


def health(path: str) -> Call[bool]:
    """`GET /healthz` or `/readyz`: yes or no, both are answers."""
    return Call("GET", path, lambda reply: reply.status == 200, ok=frozenset({503}), rpc="Health")


def _collection(name: str) -> str:
    if "/" in name:
        # servers take a quoted slash for the end of a name
        raise ValueError(f"a collection's name holds no slash, got {name[:80]!r}")
    return f"/collections/{segment(name)}"


def _read_page(reply: Reply) -> Page:
    body = reply.json()
    return Page(tuple(read_item(each) for each in body["items"]), body.get("cursor"))


def _nothing(reply: Reply) -> None:
    return None
