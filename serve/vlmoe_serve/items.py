"""Filling collections: inputs are embedded one by one; those that succeed are stored in one transaction."""

import base64
import binascii
import json

import numpy as np

from vlmoe_serve.call import Call
from vlmoe_serve.catalog.models import ServedModel
from vlmoe_serve.collection_schemas import (
    CollectionAnswer,
    ItemAnswer,
    ItemFailure,
    ItemInput,
    ItemsAnswer,
    PutCollectionRequest,
    UpsertAnswer,
    UpsertOptions,
)
from vlmoe_serve.errors import BadRequest, InvalidField, PayloadTooLarge, ServeError
from vlmoe_serve.retrieval.index import Item
from vlmoe_serve.retrieval.manager import CollectionInfo
from vlmoe_serve.retrieval.names import check_id, check_name
from vlmoe_serve.service import CallDesk, Service, error_body
from vlmoe_serve.tasks.embed import embed, space_of
from vlmoe_serve.tasks.inputs import one_of
from vlmoe_serve.tasks.retrieve import model_for
from vlmoe_serve.together import together
from vlmoe_serve.validation import check, checked_list

MAX_METADATA_BYTES = 65_536


async def put_collection(service: Service, name: str, body: object) -> CollectionAnswer:
    """Create a collection for a model's embeddings; the same again changes nothing."""
    request = check(PutCollectionRequest, body)
    check_name(name, "name")
    model = service.models.with_head(request.model, "contrastive")
    head = model.heads("contrastive")[0]
    return collection_answer(await service.collections.put(name, space_of(model), head.out_dim))


async def upsert(service: Service, name: str, body: object, call: Call) -> UpsertAnswer:
    """Store items, durably; each fails alone."""
    desk = service.desk(call)
    shared = {key: value for key, value in body.items() if key != "items"} if isinstance(body, dict) else body
    options = check(UpsertOptions, shared)
    if not isinstance(body, dict) or "items" not in body:
        raise InvalidField("items is missing", param="items")
    inputs = checked_list(body["items"], "items", service.limits.max_inputs)
    model = model_for(await service.collections.get(name), options.model, desk)

    async def one(position: int, fields: object) -> Item | ItemFailure:
        prefix = f"items.{position}."
        try:
            item = check(ItemInput, fields, prefix=prefix)
            return await service.guarded(lambda: _embedded(service, item, model, desk), call, prefix)
        except ServeError as error:
            sent = fields.get("id") if isinstance(fields, dict) else None
            return ItemFailure(id=sent if isinstance(sent, str) else None, error=error_body(error))

    outcomes = await together([one(position, fields) for position, fields in enumerate(inputs)])
    items = [outcome for outcome in outcomes if isinstance(outcome, Item)]
    if items:
        await service.collections.upsert(name, space_of(model), items)
    return UpsertAnswer(
        upserted=len(items), errors=[outcome for outcome in outcomes if isinstance(outcome, ItemFailure)]
    )


async def page(service: Service, name: str, limit: int, cursor: str | None) -> ItemsAnswer:
    """Some items by id, and where the next ones begin."""
    after = "" if cursor is None else _after(cursor)
    found = await service.collections.page(name, after, limit + 1)
    items = [ItemAnswer(id=item_id, metadata=dict(metadata)) for item_id, metadata in found[:limit]]
    more = len(found) > limit
    return ItemsAnswer(items=items, cursor=_cursor(items[-1].id) if more else None)


def collection_answer(info: CollectionInfo) -> CollectionAnswer:
    """A collection as users see it."""
    return CollectionAnswer(name=info.name, space_id=info.space_id, count=info.count)


async def _embedded(service: Service, item: ItemInput, model: ServedModel, desk: CallDesk) -> Item:
    check_id(item.id, "id")
    one_of(item.image, item.text)
    _check_metadata(item)
    item = await service.url_images.filled(item)
    computed = await embed(model, desk, image=item.image, text=item.text)
    return Item(item.id, np.asarray(computed.outputs[0], np.float32), item.metadata)


def _check_metadata(item: ItemInput) -> None:
    try:
        size = len(json.dumps(item.metadata, allow_nan=False).encode())
    except ValueError:
        raise InvalidField("metadata holds a number that JSON cannot", param="metadata") from None
    if size > MAX_METADATA_BYTES:
        raise PayloadTooLarge(
            f"metadata has {size} bytes, the limit is {MAX_METADATA_BYTES}",
            param="metadata",
            code="metadata_too_large",
        )


def _cursor(item_id: str) -> str:
    return base64.urlsafe_b64encode(item_id.encode()).decode().rstrip("=")


def _after(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        raise BadRequest(
            "cursor is not one that this server gave", param="cursor", code="invalid_cursor"
        ) from None
