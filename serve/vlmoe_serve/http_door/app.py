"""The HTTP door, put together.

Turnstile (overload) -> Express (JSON for tasks)
                     -> Exchange (ids, metrics, log) -> BodyLimit -> Gate (draining, keys, shares) -> Direct (tasks)
                        -> FastAPI (all other routes)
"""

from fastapi import FastAPI
from starlette.types import ASGIApp

from vlmoe_serve import __version__
from vlmoe_serve.catalog.model_admin import LoadRequest, ModelAdmin
from vlmoe_serve.collection_schemas import PutCollectionRequest, UpsertRequest
from vlmoe_serve.http_door.collections import collection_routes
from vlmoe_serve.http_door.direct import Direct
from vlmoe_serve.http_door.errors import install_error_handlers
from vlmoe_serve.http_door.exchange import Exchange
from vlmoe_serve.http_door.express import Express
from vlmoe_serve.http_door.gate import Gate
from vlmoe_serve.http_door.limits import BodyLimit
from vlmoe_serve.http_door.models import model_routes
from vlmoe_serve.http_door.open_inference import open_inference_routes
from vlmoe_serve.http_door.open_inference_body import InferBody
from vlmoe_serve.http_door.openai import OPENAI_SCHEMAS, openai_routes
from vlmoe_serve.http_door.openapi import install_openapi
from vlmoe_serve.http_door.short_ways import Ways
from vlmoe_serve.http_door.system import system_routes
from vlmoe_serve.http_door.tasks import task_handlers, task_routes
from vlmoe_serve.http_door.turnstile import Turnstile
from vlmoe_serve.keys.access import Access
from vlmoe_serve.keys.admin_keys import AdminKeys
from vlmoe_serve.service import Service
from vlmoe_serve.tasks import TASKS

_DESCRIPTION = """Questions about pictures, classification, embeddings and search.

An image is base64, a `data:` URL, or the file itself in a form's field `image`. Every task route takes one input,
or several in `inputs`, each of which is answered or fails alone.
Errors are `{"error": {"code", "message", "param"}}`; below `/v2`, the Open Inference Protocol, `{"error": "message"}`.
"""


def create_app(
    service: Service,
    access: Access,
    *,
    max_body_bytes: int,
    admin: ModelAdmin | None = None,
    admin_keys: AdminKeys | None = None,
) -> ASGIApp:
    """Everything that answers HTTP; without `admin` and its keys the models stay as they are."""
    app = FastAPI(
        title="vlmoe",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    install_error_handlers(app)
    handlers = task_handlers(service, max_body_bytes)
    app.include_router(task_routes(handlers))
    app.include_router(collection_routes(service))
    app.include_router(openai_routes(service))
    app.include_router(system_routes(service))
    if admin is not None and admin_keys is not None:
        app.include_router(model_routes(admin, admin_keys))
    app.include_router(open_inference_routes(service, app.version))
    bodies = [schema for task in TASKS.values() for schema in (task.request, task.batch)]
    install_openapi(
        app,
        [*bodies, PutCollectionRequest, UpsertRequest, LoadRequest, InferBody, *OPENAI_SCHEMAS],
        keys=bool(access),
    )
    inner = Gate(Direct(app, handlers), service, access)
    return Exchange(BodyLimit(inner, max_body_bytes), service.metrics, service.traces)


def create_ways(service: Service, access: Access, *, max_body_bytes: int) -> Ways:
    """What refuses or answers before there is a request for the app."""
    paths = [*(f"/{name}" for name in TASKS), "/v1/embeddings"]
    return Ways(Turnstile(service, access, paths, max_body_bytes), Express(service, access, TASKS))
