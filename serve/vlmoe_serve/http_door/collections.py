"""The routes of collections and their items."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from vlmoe_serve.collection_schemas import (
    CollectionAnswer,
    CollectionsAnswer,
    DeletedAnswer,
    ItemAnswer,
    ItemsAnswer,
    PutCollectionRequest,
    UpsertAnswer,
    UpsertRequest,
)
from vlmoe_serve.http_door.body import call_from, read_json
from vlmoe_serve.http_door.disconnect import unless_disconnected
from vlmoe_serve.http_door.json import json_response
from vlmoe_serve.http_door.openapi import body, errors, parameters
from vlmoe_serve.http_door.tasks import timing_headers
from vlmoe_serve.items import collection_answer, page, put_collection, upsert
from vlmoe_serve.service import Service


def collection_routes(service: Service) -> APIRouter:
    """All routes below /collections."""
    router = APIRouter(tags=["collections"], prefix="/collections", default_response_class=Response)
    collections = service.collections

    @router.get("", responses={200: {"model": CollectionsAnswer}, **errors(503)})
    async def list_collections() -> Response:
        """All collections, by name."""
        found = [collection_answer(info) for info in await collections.all()]
        return json_response(CollectionsAnswer(collections=found))

    @router.put(
        "/{name}",
        responses={200: {"model": CollectionAnswer}, **errors(400, 404, 409, 413, 415, 422, 503)},
        openapi_extra=body(PutCollectionRequest, required=False),
    )
    async def put(name: str, request: Request) -> Response:
        """Make a collection for a model's embeddings; doing it again changes nothing."""
        service.admit_started()
        return json_response(await put_collection(service, name, await read_json(request, if_empty={})))

    @router.get("/{name}", responses={200: {"model": CollectionAnswer}, **errors(404, 503)})
    async def get(name: str) -> Response:
        """One collection."""
        return json_response(collection_answer(await collections.get(name)))

    @router.delete("/{name}", responses={200: {"model": DeletedAnswer}, **errors(404, 503)})
    async def delete(name: str) -> Response:
        """Drop a collection with its items."""
        await collections.delete(name)
        return json_response(DeletedAnswer())

    @router.post(
        "/{name}/items",
        responses={200: {"model": UpsertAnswer}, **errors(400, 404, 409, 413, 415, 422, 429, 503, 504)},
        openapi_extra={**body(UpsertRequest), "parameters": parameters("x-request-timeout-ms", "x-priority")},
    )
    async def add_items(name: str, request: Request) -> Response:
        """Add items, or replace them. What is counted as upserted is on the disk."""
        call = call_from(request.scope)
        service.admit(call)
        content = await read_json(request)
        found = await unless_disconnected(request, upsert(service, name, content, call))
        return json_response(found, headers=timing_headers(call))

    @router.get("/{name}/items", responses={200: {"model": ItemsAnswer}, **errors(400, 404, 422, 503)})
    async def list_items(
        name: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100, cursor: str | None = None
    ) -> Response:
        """Some items by id; `cursor` continues where the last answer ended."""
        return json_response(await page(service, name, limit, cursor))

    @router.get("/{name}/items/{id:path}", responses={200: {"model": ItemAnswer}, **errors(404, 503)})
    async def get_item(name: str, id: str) -> Response:
        """One item."""
        return json_response(ItemAnswer(id=id, metadata=dict(await collections.metadata(name, id))))

    @router.delete("/{name}/items/{id:path}", responses={200: {"model": DeletedAnswer}, **errors(404, 503)})
    async def delete_item(name: str, id: str) -> Response:
        """Drop one item."""
        await collections.delete_item(name, id)
        return json_response(DeletedAnswer())

    return router
