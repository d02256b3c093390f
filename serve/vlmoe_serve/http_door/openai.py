"""The route that OpenAI's clients call."""

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from vlmoe_serve.http_door.body import call_from, read_json
from vlmoe_serve.http_door.disconnect import unless_disconnected
from vlmoe_serve.http_door.json import json_response
from vlmoe_serve.http_door.openapi import body, errors, parameters
from vlmoe_serve.http_door.tasks import timing_headers
from vlmoe_serve.openai_embeddings import (
    ImageInput,
    OpenAIEmbeddingsAnswer,
    OpenAIEmbeddingsRequest,
    TextInput,
    embeddings,
)
from vlmoe_serve.service import Service

OPENAI_SCHEMAS: list[type[BaseModel]] = [OpenAIEmbeddingsRequest, ImageInput, TextInput]


def openai_routes(service: Service) -> APIRouter:
    """Embeddings; the list of models is where the other models are."""
    router = APIRouter(tags=["OpenAI"], default_response_class=Response)

    @router.post(
        "/v1/embeddings",
        responses={
            200: {"model": OpenAIEmbeddingsAnswer},
            **errors(400, 404, 413, 415, 422, 429, 503, 504),
        },
        openapi_extra={
            **body(OpenAIEmbeddingsRequest),
            "parameters": parameters("x-request-timeout-ms", "x-priority"),
        },
    )
    async def create_embeddings(request: Request) -> Response:
        """Embed texts and pictures, as OpenAI's clients ask for it; the first that fails fails the call."""
        call = call_from(request.scope)
        service.admit(call)
        content = await read_json(request)
        found = await unless_disconnected(request, embeddings(service, content, call))
        return json_response(found, headers=timing_headers(call))

    return router
