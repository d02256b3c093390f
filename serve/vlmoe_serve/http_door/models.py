"""The routes that load and unload models, for those who hold an admin key."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from vlmoe_serve.catalog.model_admin import LoadedAnswer, LoadRequest, ModelAdmin, UnloadedAnswer
from vlmoe_serve.http_door.body import read_json
from vlmoe_serve.http_door.json import json_response
from vlmoe_serve.http_door.openapi import body, errors
from vlmoe_serve.keys.access import shown_key
from vlmoe_serve.keys.admin_keys import AdminKeys


def model_routes(admin: ModelAdmin, keys: AdminKeys) -> APIRouter:
    """Load and unload."""
    router = APIRouter(tags=["models"], prefix="/v1/models", default_response_class=Response)

    @router.post(
        "/{name}/load",
        responses={200: {"model": LoadedAnswer}, **errors(400, 403, 409, 413, 415, 422, 503)},
        openapi_extra=body(LoadRequest),
    )
    async def load_model(name: str, request: Request) -> Response:
        """Serve a checkpoint under a name, in place of the model that has it; an admin key is needed.

        Answers when the new model answers requests. A load that fails changes nothing.
        """
        keys.check(shown_key(request.headers.get))
        return json_response(await admin.load(name, await read_json(request)))

    @router.post("/{name}/unload", responses={200: {"model": UnloadedAnswer}, **errors(403, 404, 409, 503)})
    async def unload_model(name: str, request: Request) -> Response:
        """Serve a model no longer; an admin key is needed. Requests that have chosen it are answered."""
        keys.check(shown_key(request.headers.get))
        return json_response(await admin.unload(name))

    return router
