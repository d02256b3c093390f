"""Routes about the server itself: health, readiness, metrics, models, and its pages."""

from collections.abc import Iterable
from importlib import resources

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from vlmoe_serve.catalog.model_answers import ModelAnswer, ModelsAnswer, model_answer, models_answer
from vlmoe_serve.catalog.models import ServedModel
from vlmoe_serve.errors import EngineUnavailable, NotFound
from vlmoe_serve.http_door.json import json_response
from vlmoe_serve.http_door.openapi import errors
from vlmoe_serve.service import Service

_PAGE_FILES = {
    "index.html": "text/html; charset=utf-8",
    "docs.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
}
_PAGE_HEADERS = {
    # everything the pages need comes from here; pictures are shown from memory
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def system_routes(service: Service) -> APIRouter:
    """Everything that is no task and no collection."""
    router = APIRouter(tags=["server"], default_response_class=Response)

    @router.get("/healthz")
    async def healthz() -> Response:
        """The server's loop is alive."""
        return json_response({"status": "ok"})

    @router.get("/readyz", responses=errors(503))
    async def readyz() -> Response:
        """A real forward has passed, the engines make progress, and requests are taken."""
        check_ready(service)
        return json_response({"status": "ready"})

    @router.get("/metrics", responses=errors())
    async def metrics() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/v1/models", responses={200: {"model": ModelsAnswer}, **errors()})
    async def list_models() -> Response:
        """The served models."""
        return json_response(models_answer(service))

    @router.get("/v1/models/{name}", responses={200: {"model": ModelAnswer}, **errors(404)})
    async def get_model(name: str) -> Response:
        """One served model."""
        return json_response(model_answer(service, service.models.named(name)))

    @router.get("/", include_in_schema=False)
    async def index() -> Response:
        """The page."""
        return _file("index.html")

    @router.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """The API's documentation."""
        return _file("docs.html")

    @router.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        """A file of the pages."""
        if name not in _PAGE_FILES:
            raise NotFound("no such file")
        return _file(name)

    # monitors like to ask with HEAD
    for path, endpoint in (("/healthz", healthz), ("/readyz", readyz), ("/", index)):
        router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    return router


def check_ready(service: Service, models: Iterable[ServedModel] | None = None) -> None:
    """Whether these models, by default all, can answer now.

    Raises:
        ShuttingDown, Starting, EngineUnavailable
    """
    service.admit_started()
    if not all(model.batcher.ready for model in (service.models if models is None else models)):
        raise EngineUnavailable("an engine is being restarted")


def _file(name: str) -> Response:
    content = resources.files("vlmoe_serve").joinpath("page", name).read_bytes()
    return Response(content, media_type=_PAGE_FILES[name], headers=_PAGE_HEADERS)
