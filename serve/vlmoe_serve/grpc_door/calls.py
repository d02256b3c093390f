"""What each method of the service does: the same work as the HTTP route of that name.

fields of the request -> Rpc.run -> answer -> fields of the response
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vlmoe_serve.answers import Result
from vlmoe_serve.call import Call
from vlmoe_serve.catalog.model_admin import ModelAdmin
from vlmoe_serve.catalog.model_answers import ModelAnswer, models_answer
from vlmoe_serve.collection_schemas import CollectionsAnswer, DeletedAnswer, ItemAnswer
from vlmoe_serve.errors import InvalidField
from vlmoe_serve.items import collection_answer, page, put_collection, upsert
from vlmoe_serve.service import Results, Service

Fields = dict[str, Any]
_MAX_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method. admit: whether there is any point in reading the request; raises where there is not."""

    run: Callable[[Service, Fields, Call], Awaitable[Result | Fields]]
    admit: Callable[[Service, Call], None]


def _task(name: str) -> Rpc:
    async def run(service: Service, fields: Fields, call: Call) -> Result:
        found = await service.run(name, fields, call)
        assert not isinstance(found, Results), "a message has no field for several inputs"
        return found

    return Rpc(run, Service.admit)


def _started(run: Callable[[Service, Fields], Awaitable[Result]]) -> Rpc:
    return Rpc(
        lambda service, fields, call: run(service, fields), lambda service, call: service.admit_started()
    )


def _stored(run: Callable[[Service, Fields], Awaitable[Result | Fields]]) -> Rpc:
    return Rpc(lambda service, fields, call: run(service, fields), lambda service, call: None)


async def _explain(service: Service, fields: Fields, call: Call) -> Fields:
    found = await service.run("explain/routing", fields, call)
    assert not isinstance(found, Results), "a message has no field for several inputs"
    return {"routing": found.model_dump()}


async def _upsert(service: Service, fields: Fields, call: Call) -> Result:
    return await upsert(service, _name(fields, "collection"), _without(fields, "collection"), call)


async def _put_collection(service: Service, fields: Fields) -> Result:
    return await put_collection(service, _name(fields, "name"), _without(fields, "name"))


async def _get_collection(service: Service, fields: Fields) -> Result:
    return collection_answer(await service.collections.get(_name(fields, "name")))


async def _list_collections(service: Service, fields: Fields) -> Result:
    return CollectionsAnswer(
        collections=[collection_answer(info) for info in await service.collections.all()]
    )


async def _delete_collection(service: Service, fields: Fields) -> Result:
    await service.collections.delete(_name(fields, "name"))
    return DeletedAnswer()


async def _get_item(service: Service, fields: Fields) -> Result:
    item_id = _name(fields, "id")
    metadata = await service.collections.metadata(_name(fields, "collection"), item_id)
    return ItemAnswer(id=item_id, metadata=dict(metadata))


async def _list_items(service: Service, fields: Fields) -> Result:
    limit = fields.get("limit", 100)
    if not 1 <= limit <= _MAX_LIMIT:
        raise InvalidField(f"limit must be from 1 to {_MAX_LIMIT}, got {limit}", param="limit")
    return await page(service, _name(fields, "collection"), limit, fields.get("cursor"))


async def _delete_item(service: Service, fields: Fields) -> Result:
    await service.collections.delete_item(_name(fields, "collection"), _name(fields, "id"))
    return DeletedAnswer()


async def _list_models(service: Service, fields: Fields) -> Fields:
    return {"data": [model_fields(model) for model in models_answer(service).data]}


def model_fields(model: ModelAnswer) -> Fields:
    """A model without what OpenAI's list has for form's sake."""
    return model.model_dump(exclude={"object", "created", "owned_by"})


def admin_rpcs(admin: ModelAdmin) -> Mapping[str, Rpc]:
    """What changes the models; who may is decided before."""

    async def load(service: Service, fields: Fields) -> Result:
        return await admin.load(_name(fields, "name"), _without(fields, "name"))

    async def unload(service: Service, fields: Fields) -> Result:
        return await admin.unload(_name(fields, "name"))

    return {"LoadModel": _started(load), "UnloadModel": _started(unload)}


def _name(fields: Fields, name: str) -> str:
    value = fields.get(name, "")
    if not value:
        raise InvalidField(f"{name} is missing", param=name)
    return str(value)


def _without(fields: Fields, name: str) -> Fields:
    return {key: value for key, value in fields.items() if key != name}


RPCS: Mapping[str, Rpc] = {
    "Vqa": _task("vqa"),
    "Classify": _task("classify"),
    "Embed": _task("embed"),
    "Retrieve": _task("retrieve"),
    "Rerank": _task("rerank"),
    "ExplainRouting": Rpc(_explain, Service.admit),
    "PutCollection": _started(_put_collection),
    "GetCollection": _stored(_get_collection),
    "ListCollections": _stored(_list_collections),
    "DeleteCollection": _stored(_delete_collection),
    "UpsertItems": Rpc(_upsert, Service.admit),
    "GetItem": _stored(_get_item),
    "ListItems": _stored(_list_items),
    "DeleteItem": _stored(_delete_item),
    "ListModels": _stored(_list_models),
}
# what one request of a stream is
STREAMS: Mapping[str, str] = {
    "VqaStream": "Vqa",
    "ClassifyStream": "Classify",
    "EmbedStream": "Embed",
    "RetrieveStream": "Retrieve",
    "UpsertStream": "UpsertItems",
}
