"""`inference.GRPCInferenceService`: the Open Inference Protocol over gRPC, which KServe's and Triton's clients speak.

    messages -> open_inference.infer -> messages

Tensors come in the fields of their datatype or raw, and an answer has the form that its request had.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from vlmoe_client.proto.inference import grpc_predict_v2_pb2 as pb
from vlmoe_serve.call import Call
from vlmoe_serve.errors import BadRequest, InvalidField
from vlmoe_serve.grpc_door.methods import unary
from vlmoe_serve.grpc_door.types import Handler
from vlmoe_serve.open_inference import calls as oip
from vlmoe_serve.open_inference.tensors import (
    BytesTensor,
    FloatTensor,
    InferAnswer,
    InferRequest,
    Parameter,
    Tensor,
    check_bytes,
)
from vlmoe_serve.service import Service
from vlmoe_serve.validation import shown

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
# raw tensors need no extension here: they are the protocol's own
EXTENSIONS = ("schedule_policy", "parameters")


def open_inference_handlers(service: Service, version: str) -> dict[str, Handler]:
    """A handler for every method of the protocol."""

    def always(call: Call) -> None:
        pass

    def started(call: Call) -> None:
        service.admit_started()

    async def server_live(request: Any, call: Call) -> Message:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(request: Any, call: Call) -> Message:
        return pb.ServerReadyResponse(ready=service.ready)

    async def model_ready(request: Any, call: Call) -> Message:
        found = oip.find(service.models, request.name, request.version)
        return pb.ModelReadyResponse(ready=found.model.batcher.ready)

    async def server_metadata(request: Any, call: Call) -> Message:
        return pb.ServerMetadataResponse(name=oip.SERVER, version=version, extensions=EXTENSIONS)

    async def model_metadata(request: Any, call: Call) -> Message:
        found = oip.find(service.models, request.name, request.version)
        described = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=found.name,
            versions=[oip.VERSION],
            platform=oip.PLATFORM,
            inputs=[described(name=one.name, datatype=one.datatype, shape=one.shape) for one in found.inputs],
            outputs=[
                described(name=one.name, datatype=one.datatype, shape=one.shape) for one in found.outputs
            ],
        )

    async def model_infer(request: Any, call: Call) -> Message:
        answer = await oip.infer(service, read_infer(request), call)
        return infer_response(answer, raw=bool(request.raw_input_contents))

    methods: dict[str, tuple[Callable[[Call], None], Callable[[Any, Call], Awaitable[Message]]]] = {
        "ServerLive": (always, server_live),
        "ServerReady": (always, server_ready),
        "ModelReady": (started, model_ready),
        "ServerMetadata": (always, server_metadata),
        "ModelMetadata": (started, model_metadata),
        "ModelInfer": (service.admit, model_infer),
    }
    return {
        name: grpc.stream_stream_rpc_method_handler(unary(SERVICE.methods_by_name[name], *how))
        for name, how in methods.items()
    }


def read_infer(request: Any) -> InferRequest:
    """A call's tensors and parameters.

    Raises:
        BadRequest: raw contents that do not belong to the inputs. InvalidField: not what a tensor must be.
    """
    for one in (*request.inputs, *request.outputs):
        for name in one.parameters:
            raise InvalidField(f"{one.name[:80]}: {shown(name)} is not supported", param=one.name[:80])
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(
            f"{len(raw)} raw contents for {len(request.inputs)} inputs",
            param="raw_input_contents",
            code="malformed_tensor",
        )
    return InferRequest(
        model=request.model_name,
        inputs=[_tensor(one, raw[place] if raw else None) for place, one in enumerate(request.inputs)],
        version=request.model_version,
        id=request.id,
        outputs=[output.name for output in request.outputs],
        parameters={name: value for name, given in request.parameters.items() for value in _parameter(given)},
    )


def infer_response(answer: InferAnswer, *, raw: bool) -> Message:
    """The answer; raw: the elements behind all outputs, else in them."""
    return pb.ModelInferResponse(
        model_name=answer.model,
        model_version=answer.version,
        id=answer.id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=tensor.name,
                datatype=tensor.datatype,
                shape=tensor.shape,
                contents=None if raw else _contents(tensor),
            )
            for tensor in answer.outputs
        ],
        raw_output_contents=[tensor.raw() for tensor in answer.outputs] if raw else (),
    )


def _tensor(given: Any, raw: bytes | None) -> BytesTensor:
    check_bytes(given.name, given.datatype)
    shape = tuple(given.shape)
    if raw is None:
        return BytesTensor(given.name, shape, list(given.contents.bytes_contents))
    if given.HasField("contents"):
        raise BadRequest(
            f"{given.name[:80]} has contents beside the raw ones", param=given.name, code="malformed_tensor"
        )
    return BytesTensor.from_raw(given.name, shape, raw)


def _parameter(given: Any) -> tuple[Parameter, ...]:
    """Its value; nothing where none was set."""
    kind = given.WhichOneof("parameter_choice")
    return () if kind is None else (getattr(given, kind),)


def _contents(tensor: Tensor) -> Any:
    if isinstance(tensor, FloatTensor):
        return pb.InferTensorContents(fp32_contents=tensor.array.ravel().tolist())
    elements = (one.encode() if isinstance(one, str) else one for one in tensor.elements)
    return pb.InferTensorContents(bytes_contents=elements)
