"""The routes of the Open Inference Protocol, which KServe's and Triton's clients speak."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from vlmoe_serve.answers import Result
from vlmoe_serve.http_door.body import call_from
from vlmoe_serve.http_door.disconnect import unless_disconnected
from vlmoe_serve.http_door.json import json_response
from vlmoe_serve.http_door.open_inference_body import HEADER_LENGTH, InferBody, infer_response, read_infer
from vlmoe_serve.http_door.openapi import body, open_inference_errors, parameters
from vlmoe_serve.http_door.system import check_ready
from vlmoe_serve.http_door.tasks import timing_headers
from vlmoe_serve.open_inference import calls as oip
from vlmoe_serve.open_inference.tensors import TensorSpec
from vlmoe_serve.service import Service

EXTENSIONS = ("binary_tensor_data", "schedule_policy", "parameters")


class ServerAnswer(Result):
    """The server and the extensions of the protocol that it knows."""

    name: str
    version: str
    extensions: list[str]


class TensorAnswer(Result):
    """What a tensor must be; -1 where the size follows from the request."""

    name: str
    datatype: str
    shape: list[int]


class TensorModelAnswer(Result):
    """A served model's task."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorAnswer]
    outputs: list[TensorAnswer]
    parameters: dict[str, str]


class TensorData(TensorAnswer):
    """An output: its elements flat in `data`, or `binary_data_size` bytes behind the JSON."""

    data: list[Any] | None = None
    parameters: dict[str, int] | None = None


class InferAnswerBody(Result):
    """The outputs of all items."""

    model_name: str
    model_version: str
    id: str = ""
    outputs: list[TensorData]


class LiveAnswer(Result):
    """The server lives."""

    live: bool


class ReadyAnswer(Result):
    """The server is ready."""

    ready: bool


class ModelReadyAnswer(Result):
    """A model is ready."""

    name: str
    ready: bool


def open_inference_routes(service: Service, version: str) -> APIRouter:
    """Everything below /v2."""
    router = APIRouter(tags=["Open Inference Protocol"], prefix="/v2", default_response_class=Response)

    @router.get("", responses={200: {"model": ServerAnswer}, **open_inference_errors()})
    async def server_metadata() -> Response:
        """The server and its extensions."""
        return json_response(ServerAnswer(name=oip.SERVER, version=version, extensions=list(EXTENSIONS)))

    @router.get("/health/live", responses={200: {"model": LiveAnswer}, **open_inference_errors()})
    async def server_live() -> Response:
        """The server's loop is alive."""
        return json_response(LiveAnswer(live=True))

    @router.get("/health/ready", responses={200: {"model": ReadyAnswer}, **open_inference_errors(503)})
    async def server_ready() -> Response:
        """Every model is ready and requests are taken."""
        check_ready(service)
        return json_response(ReadyAnswer(ready=True))

    async def infer(request: Request, model: str, model_version: str = "") -> Response:
        call = call_from(request.scope)
        service.admit(call)
        asked = read_infer(await request.body(), request.headers, model, model_version)
        answer = await unless_disconnected(request, oip.infer(service, asked.request, call))
        return infer_response(answer, asked, timing_headers(call))

    def metadata(model: str, model_version: str = "") -> Response:
        service.admit_started()
        return json_response(_metadata(oip.find(service.models, model, model_version)))

    def ready(model: str, model_version: str = "") -> Response:
        service.admit_started()
        found = oip.find(service.models, model, model_version)
        check_ready(service, [found.model])
        return json_response(ModelReadyAnswer(name=found.name, ready=True))

    described: dict[int | str, dict[str, Any]] = {
        200: {"model": TensorModelAnswer},
        **open_inference_errors(404, 503),
    }
    tells_ready: dict[int | str, dict[str, Any]] = {
        200: {"model": ModelReadyAnswer},
        **open_inference_errors(404, 503),
    }
    answered: dict[int | str, dict[str, Any]] = {
        200: {"model": InferAnswerBody},
        **open_inference_errors(400, 404, 413, 415, 422, 429, 503, 504),
    }
    infers: dict[str, Any] = {
        **body(InferBody, binary=True),
        "parameters": parameters("x-request-timeout-ms", "x-priority", HEADER_LENGTH),
    }

    @router.get("/models/{model}", responses=described)
    async def model_metadata(model: str) -> Response:
        """A model's task, named NAME.TASK: its tensors and, as parameters, its fingerprints."""
        return metadata(model)

    @router.get("/models/{model}/ready", responses=tells_ready)
    async def model_ready(model: str) -> Response:
        """The model's engine makes progress and requests are taken."""
        return ready(model)

    @router.post("/models/{model}/infer", responses=answered, openapi_extra=infers)
    async def model_infer(model: str, request: Request) -> Response:
        """Answer n items; the first that fails fails the call."""
        return await infer(request, model)

    # clients may name a version; there is one
    @router.get("/models/{model}/versions/{version}", responses=described)
    async def version_metadata(model: str, version: str) -> Response:
        """The same, with the version."""
        return metadata(model, version)

    @router.get("/models/{model}/versions/{version}/ready", responses=tells_ready)
    async def version_ready(model: str, version: str) -> Response:
        """The same, with the version."""
        return ready(model, version)

    @router.post("/models/{model}/versions/{version}/infer", responses=answered, openapi_extra=infers)
    async def version_infer(model: str, version: str, request: Request) -> Response:
        """The same, with the version."""
        return await infer(request, model, version)

    return router


def _metadata(found: oip.TensorModel) -> TensorModelAnswer:
    info = found.model.info
    parameters = {"model_id": info.model_id, "space_id": info.space_id or ""}
    return TensorModelAnswer(
        name=found.name,
        versions=[oip.VERSION],
        platform=oip.PLATFORM,
        inputs=[_described(spec) for spec in found.inputs],
        outputs=[_described(spec) for spec in found.outputs],
        parameters={name: value for name, value in parameters.items() if value},
    )


def _described(spec: TensorSpec) -> TensorAnswer:
    return TensorAnswer(name=spec.name, datatype=spec.datatype, shape=list(spec.shape))
