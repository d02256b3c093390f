"""The Open Inference Protocol's bodies over HTTP: JSON, or JSON with the tensors' bytes behind it.

    POST .../infer   Inference-Header-Content-Length: 157
    {... "inputs": [{"name": "IMAGE", ..., "parameters": {"binary_data_size": 4711}}]}<4711 bytes>

An answer has the same two forms, as its call asks for by `binary_data` of an output or `binary_data_output`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic_core
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.datastructures import Headers
from starlette.responses import Response

from vlmoe_serve.errors import BadRequest, InvalidField
from vlmoe_serve.http_door.json import json_response, parse_json
from vlmoe_serve.open_inference.tensors import (
    BytesTensor,
    InferAnswer,
    InferRequest,
    Parameter,
    Tensor,
    check_bytes,
)
from vlmoe_serve.validation import check, shown

HEADER_LENGTH = "inference-header-content-length"
_SIZE, _BINARY, _ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
_MAX_TENSORS = 64
_MAX_PARAMETERS = 64


def _few(value: object) -> object:
    # before its values are looked at: each that is wrong would become an error of its own
    if isinstance(value, dict) and len(value) > _MAX_PARAMETERS:
        raise PydanticCustomError("parameters", f"Input should have at most {_MAX_PARAMETERS} parameters")
    return value


Parameters = Annotated[
    dict[str, Parameter],
    BeforeValidator(_few),
    Field(default_factory=dict, json_schema_extra={"maxProperties": _MAX_PARAMETERS}),
]


class _Part(BaseModel):
    # other clients of the protocol send more than we read, such as the model's name
    model_config = ConfigDict(frozen=True, extra="ignore")


class InferInput(_Part):
    """A tensor: its elements in `data`, or `binary_data_size` bytes of them behind the JSON."""

    name: str = Field(examples=["TEXT"])
    shape: Annotated[list[int], Field(max_length=8)] = Field(examples=[[1]])
    datatype: str = Field(examples=["BYTES"])
    parameters: Parameters
    data: list[Any] | None = Field(None, examples=[["a sleeping cat"]])


class InferOutput(_Part):
    """A tensor that the answer shall hold."""

    name: str
    parameters: Parameters


class InferBody(_Part):
    """A call: n items, one in each element of the inputs. Parameters: `top_k`, `head`, `timeout`, `priority`."""

    id: str = ""
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=_MAX_TENSORS)]
    outputs: Annotated[list[InferOutput], Field(max_length=_MAX_TENSORS)] = []
    parameters: Parameters


@dataclass(frozen=True, slots=True, eq=False)
class HttpInfer:
    """A request, and which outputs its answer shall carry as bytes."""

    request: InferRequest
    binary: Mapping[str, bool]
    all_binary: bool


def read_infer(content: bytes, headers: Headers, model: str, version: str) -> HttpInfer:
    """Read a call's body.

    Raises:
        BadRequest: malformed. InvalidField: not what the schema says.
    """
    length = _header_length(headers, len(content))
    body = check(InferBody, parse_json(content[:length]))
    inputs, end = [], length
    for one in body.inputs:
        start, end = end, end + _binary_size(one)
        if end > len(content):
            raise BadRequest(
                f"{one.name[:80]}: {_SIZE} reaches beyond the end of the body",
                param=f"inputs.{one.name[:80]}",
                code="malformed_tensor",
            )
        inputs.append(_tensor(one, content[start:end]))
    if end < len(content):
        raise BadRequest(
            f"{len(content) - end} bytes behind the JSON belong to no input", code="malformed_tensor"
        )
    parameters = dict(body.parameters)
    all_binary = _flag(parameters.pop(_ALL_BINARY, False), f"parameters.{_ALL_BINARY}")
    return HttpInfer(
        InferRequest(
            model=model,
            inputs=inputs,
            version=version,
            id=body.id,
            outputs=[output.name for output in body.outputs],
            parameters=parameters,
        ),
        {output.name: _output_binary(output, all_binary) for output in body.outputs},
        all_binary,
    )


def infer_response(answer: InferAnswer, infer: HttpInfer, headers: Mapping[str, str]) -> Response:
    """The answer in the form that the call asked for."""
    described: list[dict[str, Any]] = []
    blocks: list[bytes] = []
    for tensor in answer.outputs:
        one: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if infer.binary.get(tensor.name, infer.all_binary):
            blocks.append(tensor.raw())
            one["parameters"] = {_SIZE: len(blocks[-1])}
        else:
            one["data"] = _data(tensor)
        described.append(one)
    content: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
    if answer.id:
        content["id"] = answer.id
    content["outputs"] = described
    if not blocks:
        return json_response(content, headers=headers)
    head = pydantic_core.to_json(content)
    return Response(
        b"".join([head, *blocks]),
        headers={**headers, HEADER_LENGTH: str(len(head))},
        media_type="application/octet-stream",
    )


def _header_length(headers: Headers, size: int) -> int:
    text = headers.get(HEADER_LENGTH)
    if text is None:
        return size
    if not re.fullmatch(r"[0-9]{1,12}", text) or int(text) > size:
        raise BadRequest(
            f"{HEADER_LENGTH} must be a whole number up to the body's {size} bytes, got {shown(text)}",
            param=HEADER_LENGTH,
        )
    return int(text)


def _binary_size(one: InferInput) -> int:
    unknown = [name for name in one.parameters if name != _SIZE]
    if unknown:
        raise InvalidField(
            f"{one.name[:80]}: {shown(unknown[0])} is not supported; an input has {_SIZE}", param="inputs"
        )
    size = one.parameters.get(_SIZE)
    if (size is None) == (one.data is None):
        problem = "has neither data nor" if size is None else "has data and also"
        raise InvalidField(f"{one.name[:80]} {problem} {_SIZE}", param="inputs")
    if size is None:
        return 0
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InvalidField(
            f"{one.name[:80]}: {_SIZE} must be a whole number, got {shown(size)}", param="inputs"
        )
    return size


def _tensor(one: InferInput, raw: bytes) -> BytesTensor:
    name, shape = one.name[:80], tuple(one.shape)
    check_bytes(name, one.datatype)
    if one.data is None:
        return BytesTensor.from_raw(name, shape, raw)
    for position, element in enumerate(one.data):
        if not isinstance(element, str):
            raise InvalidField(
                f"{name}: element {position} must be a string, got {shown(element)}", param=name
            )
    return BytesTensor(name, shape, one.data)


def _output_binary(output: InferOutput, all_binary: bool) -> bool:
    unknown = [name for name in output.parameters if name != _BINARY]
    if unknown:
        raise InvalidField(
            f"{output.name[:80]}: {shown(unknown[0])} is not supported; an output has {_BINARY}",
            param="outputs",
        )
    return _flag(output.parameters.get(_BINARY, all_binary), "outputs")


def _flag(value: Parameter, param: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidField(f"{param}: must be true or false, got {shown(value)}", param=param)
    return value


def _data(tensor: Tensor) -> Sequence[object]:
    """Row-major and flat."""
    if isinstance(tensor, BytesTensor):
        return tensor.elements
    return tensor.array.ravel().tolist()
