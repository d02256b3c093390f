"""The OpenAPI document: the parts that FastAPI cannot see because the door reads bodies by itself."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from vlmoe_serve.answers import ErrorAnswer, OpenInferenceError

_REF = "#/components/schemas/{model}"
_STATUSES = {
    400: "Malformed, or an image that does not decode.",
    401: "No valid key.",
    403: "Not with this key.",
    404: "No such model, collection or item.",
    409: "Embeddings of another space, or a change that does not go with what is served.",
    413: "Too large.",
    415: "Not an image of an allowed format, or a body that is packed.",
    422: "Not what the schema says.",
    429: "Overloaded; try again after `Retry-After` seconds.",
    503: "Not ready.",
    504: "The deadline passed.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for its `responses`."""
    return {status: {"model": ErrorAnswer, "description": _STATUSES[status]} for status in (401, *statuses)}


def open_inference_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same for routes of the Open Inference Protocol, whose errors have its own shape."""
    return {status: {**answer, "model": OpenInferenceError} for status, answer in errors(*statuses).items()}


def body(
    schema: type[BaseModel],
    *more: type[BaseModel],
    form: bool = False,
    required: bool = True,
    binary: bool = False,
) -> dict[str, Any]:
    """The `openapi_extra` of a route whose body is one of these; a form takes the first.

    binary: the JSON may have bytes behind it.
    """
    refs = [{"$ref": _REF.format(model=one.__name__)} for one in (schema, *more)]
    content: dict[str, Any] = {"application/json": {"schema": refs[0] if len(refs) == 1 else {"anyOf": refs}}}
    if form:
        content["multipart/form-data"] = {
            "schema": {
                "allOf": [refs[0]],
                "properties": {"image": {"type": "string", "format": "binary", "description": "The file."}},
            }
        }
    if binary:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": required, "content": content}}


def parameters(*names: str) -> list[dict[str, Any]]:
    """The headers that task routes read."""
    known = {
        "x-request-timeout-ms": {
            "schema": {"type": "integer", "minimum": 1, "maximum": 3_600_000},
            "description": "Answer 504 rather than later than this.",
        },
        "x-priority": {
            "schema": {"type": "string", "enum": ["interactive", "normal", "batch"], "default": "normal"},
            "description": "Which requests go first.",
        },
        "inference-header-content-length": {
            "schema": {"type": "integer", "minimum": 0},
            "description": "Length of the JSON, where tensors lie behind it.",
        },
    }
    return [{"name": name, "in": "header", "required": False, **known[name]} for name in names]


def install_openapi(app: FastAPI, schemas: list[type[BaseModel]], *, keys: bool) -> None:
    """Let the app's document carry the bodies' schemas and the ways to show a key."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generated()
            _, definitions = models_json_schema(
                [(schema, "validation") for schema in schemas], ref_template=_REF
            )
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(definitions.get("$defs", {}))
            if keys:
                components["securitySchemes"] = {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                }
                document["security"] = [{"bearer": []}, {"apiKey": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
