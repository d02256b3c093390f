"""The nouns of the Open Inference Protocol, whatever door they come by: tensors, a request, its answer.

Also the raw form of a BYTES tensor, which the binary extension of HTTP and gRPC's `raw_input_contents` share:
each element is four bytes of little-endian length, then the bytes themselves.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from vlmoe_serve.errors import BadRequest, InvalidField, PayloadTooLarge
from vlmoe_serve.schemas import MAX_INPUTS

Datatype = Literal["BYTES", "FP32"]
# what a parameter may be in JSON and in protobuf
Parameter = bool | int | float | str
# FP32 travels as little-endian numbers
FP32 = np.dtype("<f4")
_LENGTH = struct.Struct("<I")
_MAX_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor must be. shape: -1 where the size follows from the request."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class BytesTensor:
    """Elements in row-major order: `str` where a JSON body brought them, else `bytes`.

    Raises:
        InvalidField: the shape holds another number of elements.
    """

    name: str
    shape: tuple[int, ...]
    elements: Sequence[str | bytes]

    def __post_init__(self) -> None:
        count = element_count(self.name, self.shape)
        if count != len(self.elements):
            raise InvalidField(
                f"{self.name}: shape {list(self.shape)} holds {count} elements, "
                f"the data {len(self.elements)}",
                param=self.name,
            )

    @property
    def datatype(self) -> Datatype:
        """Its name in the protocol."""
        return "BYTES"

    def raw(self) -> bytes:
        """The elements, each behind its length."""
        encoded = (element.encode() if isinstance(element, str) else element for element in self.elements)
        return b"".join(_LENGTH.pack(len(element)) + element for element in encoded)

    @classmethod
    def from_raw(cls, name: str, shape: tuple[int, ...], raw: bytes) -> "BytesTensor":
        """Read elements, each behind its length.

        Raises:
            BadRequest: an element reaches beyond the end. InvalidField: not as many as the shape says. PayloadTooLarge:
            more than any task takes.
        """
        # known before the elements are cut out: four bytes a piece would make a large body huge
        count = element_count(name, shape)
        if count > MAX_INPUTS:
            raise PayloadTooLarge(
                f"{name} has {count} elements, the limit is {MAX_INPUTS}", param=name, code="too_many_inputs"
            )
        elements: list[bytes] = []
        start = 0
        while start < len(raw) and len(elements) <= count:
            body = start + _LENGTH.size
            end = body + _LENGTH.unpack_from(raw, start)[0] if body <= len(raw) else body
            if end > len(raw):
                raise BadRequest(
                    f"{name}: element {len(elements)} reaches beyond the end of the data",
                    param=name,
                    code="malformed_tensor",
                )
            elements.append(raw[body:end])
            start = end
        return cls(name, shape, elements)


@dataclass(frozen=True, slots=True, eq=False)
class FloatTensor:
    """Numbers in the array's own shape."""

    name: str
    array: npt.NDArray[np.float32]

    @property
    def datatype(self) -> Datatype:
        """Its name in the protocol."""
        return "FP32"

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's."""
        return self.array.shape

    def raw(self) -> bytes:
        """The numbers in row-major order, little-endian."""
        return np.ascontiguousarray(self.array, dtype=FP32).tobytes()


Tensor = BytesTensor | FloatTensor


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """One infer call. model: "NAME.TASK". outputs: names; none asks for all."""

    model: str
    inputs: Sequence[BytesTensor]
    version: str = ""
    id: str = ""
    outputs: Sequence[str] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class InferAnswer:
    """What it is answered with, outputs in the order they were asked for."""

    model: str
    version: str
    id: str
    outputs: tuple[Tensor, ...]


def element_count(name: str, shape: tuple[int, ...]) -> int:
    """How many elements a shape holds.

    Raises:
        InvalidField: no shape.
    """
    if len(shape) > _MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise InvalidField(f"{name}: {list(shape)[:10]} is no shape of a tensor", param=name)
    count = 1
    for size in shape:
        count *= size
    return count


def check_bytes(name: str, datatype: str) -> None:
    """Every input of every task is BYTES.

    Raises:
        InvalidField: this one is not.
    """
    if datatype != "BYTES":
        raise InvalidField(f"{name}: the datatype must be BYTES, got {datatype[:20]!r}", param=name)
