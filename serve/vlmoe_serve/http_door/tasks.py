"""The task routes: one POST route a task."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from vlmoe_serve.call import Call
from vlmoe_serve.http_door.body import call_from, read_body
from vlmoe_serve.http_door.direct import Handler
from vlmoe_serve.http_door.disconnect import unless_disconnected
from vlmoe_serve.http_door.json import json_response
from vlmoe_serve.http_door.openapi import body, errors, parameters
from vlmoe_serve.service import Service
from vlmoe_serve.tasks import TASKS

_SUMMARIES = {
    "vqa": "Ask a question about a picture",
    "classify": "Classify a picture or a text",
    "embed": "Embed a picture or a text",
    "retrieve": "Search a collection",
    "rerank": "Order pictures or texts by how well they fit",
    "explain/routing": "Show which experts handle an input",
}


def task_handlers(service: Service, max_body_bytes: int) -> dict[str, Handler]:
    """What answers a POST to each task's path."""
    return {f"/{name}": _handler(name, service, max_body_bytes) for name in TASKS}


def task_routes(handlers: Mapping[str, Handler]) -> APIRouter:
    """A route for every task, as the app and its document know them."""
    router = APIRouter(tags=["tasks"])
    for name in TASKS:
        _add(router, name, handlers[f"/{name}"])
    return router


def _handler(name: str, service: Service, max_body_bytes: int) -> Handler:
    async def answer(request: Request) -> Response:
        call = call_from(request.scope)
        service.admit(call)
        content = await read_body(request, max_body_bytes)
        found = await unless_disconnected(
            request, service.run(name, content.fields, call, strict=content.strict)
        )
        return json_response(found, headers=timing_headers(call))

    return answer


def _add(router: APIRouter, name: str, answer: Handler) -> None:
    task = TASKS[name]
    extra: dict[str, Any] = body(task.request, task.batch, form=True)
    router.add_api_route(
        f"/{name}",
        answer,
        methods=["POST"],
        operation_id=name.replace("/", "_"),
        summary=_SUMMARIES.get(name, name),
        description=(task.request.__doc__ or "").strip(),
        response_class=Response,
        responses={
            200: {
                "model": task.answer | task.results,
                "description": "The answer; with `inputs`, a list of them in `results`.",
            },
            **errors(400, 404, 409, 413, 415, 422, 429, 503, 504),
        },
        openapi_extra={**extra, "parameters": parameters("x-request-timeout-ms", "x-priority")},
    )


def timing_headers(call: Call) -> dict[str, str]:
    """Where the time of a call went."""
    return call.timings.headers()
