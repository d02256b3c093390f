"""The Open Inference Protocol without its transport: what both doors do with a request for tensors.

    InferRequest (tensors) -> one task body an item -> service, item by item -> results -> InferAnswer (tensors)

A model of this protocol is a served model and one of its tasks, "NAME.TASK". The n items of a call are n inputs
to the service, which batches them with everybody else's. The protocol has no errors of single items, so the
first item that fails fails the call, and the others are dropped.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmoe_serve.answers import Result
from vlmoe_serve.batching.ticket import PRIORITIES
from vlmoe_serve.call import Call
from vlmoe_serve.catalog.models import Models, ServedModel
from vlmoe_serve.errors import BadRequest, InvalidField, NotFound, PayloadTooLarge, ServeError
from vlmoe_serve.open_inference.tasks import FIELDS, TENSOR_TASKS, TensorTask
from vlmoe_serve.open_inference.tensors import (
    BytesTensor,
    InferAnswer,
    InferRequest,
    Parameter,
    Tensor,
    TensorSpec,
)
from vlmoe_serve.service import Service
from vlmoe_serve.tasks import TASKS
from vlmoe_serve.together import together
from vlmoe_serve.validation import check, shown

# a model is swapped as a whole, so there is one version of it at any time
VERSION = "1"
SERVER = "vlmoe"
PLATFORM = "vlmoe"
# of Triton's schedule policy: microseconds, and 1 for the most urgent of three levels
_TIMEOUT, _PRIORITY = "timeout", "priority"
_SNIFFED = 64
_PRINTABLE = bytes([*range(32, 127), *b"\t\r\n"])


@dataclass(frozen=True, slots=True)
class TensorModel:
    """A served model and one of its tasks."""

    model: ServedModel
    task_name: str
    task: TensorTask

    @property
    def name(self) -> str:
        """As requests call it."""
        return f"{self.model.name}.{self.task_name}"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Every tensor that it takes, not all of them in one call."""
        return self.task.input_specs(self.model)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Every tensor that it gives."""
        return self.task.outputs(self.model)


def find(models: Models, name: str, version: str = "") -> TensorModel:
    """The model and task of a name.

    Raises:
        NotFound: with the names that exist.
    """
    candidates = all_models(models)
    found = next((one for one in candidates if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in candidates)
        raise NotFound(
            f"no model {name[:160]!r}; a model is named NAME.TASK, and there are {known}",
            code="model_not_found",
        )
    if version not in ("", VERSION):
        raise NotFound(
            f"no version {version[:80]!r} of {name}; there is {VERSION}", code="model_version_not_found"
        )
    return found


def all_models(models: Models) -> list[TensorModel]:
    """Every served model with each of its tasks."""
    return [
        TensorModel(model, name, task)
        for model in models
        for name, task in TENSOR_TASKS.items()
        if task.inputs_of(model)
    ]


async def infer(service: Service, request: InferRequest, call: Call) -> InferAnswer:
    """Answer one call.

    Raises:
        ServeError: of the first item that failed; the message names its tensor and position.
    """
    found = find(service.models, request.model, request.version)
    asked = _asked(request.outputs, found)
    call = _scheduled(call, request.parameters)
    options = _options(request.parameters, found)
    tensors = _checked_inputs(request, found, service.limits.max_inputs)
    task = TASKS[found.task_name]
    # one model for all items, also when another takes its place meanwhile
    desk = service.desk(call, Models([found.model]))

    async def one(position: int) -> Result:
        try:
            fields = {FIELDS[tensor.name]: _element(tensor, position) for tensor in tensors}
            checked = check(task.request, {**options, **fields, "model": found.model.name})
            return await service.guarded(lambda: task.run(checked, desk), call)
        except ServeError as error:
            _locate(error, position)
            raise

    results = await together([one(position) for position in range(tensors[0].shape[0])])
    outputs: Mapping[str, Tensor] = {tensor.name: tensor for tensor in found.task.decode(results)}
    return InferAnswer(found.name, VERSION, request.id, tuple(outputs[name] for name in asked))


def _asked(names: Sequence[str], found: TensorModel) -> list[str]:
    known = [spec.name for spec in found.outputs]
    for name in names:
        if name not in known:
            raise InvalidField(
                f"{found.name} has no output {shown(name)}; it has {', '.join(known)}", param="outputs"
            )
    return list(dict.fromkeys(names)) or known


def _scheduled(call: Call, parameters: Mapping[str, Parameter]) -> Call:
    """The call with the deadline and the priority that its parameters set."""
    timeout_us, level = parameters.get(_TIMEOUT, 0), parameters.get(_PRIORITY, 0)
    if not _is_whole(timeout_us, 3_600_000_000):
        raise InvalidField(
            f"timeout must be a whole number of microseconds up to 3600000000, got {shown(timeout_us)}",
            param="parameters.timeout",
        )
    if not _is_whole(level, len(PRIORITIES)):
        raise InvalidField(
            f"priority must be 1 (the most urgent) to {len(PRIORITIES)}, or 0 for none, got {shown(level)}",
            param="parameters.priority",
        )
    deadline_s = call.deadline_s
    if timeout_us:
        asked_s = time.monotonic() + int(timeout_us) / 1e6
        deadline_s = asked_s if deadline_s is None else min(deadline_s, asked_s)
    priority = PRIORITIES[int(level) - 1] if level else call.priority
    return dataclasses.replace(call, deadline_s=deadline_s, priority=priority)


def _is_whole(value: Parameter, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _options(parameters: Mapping[str, Parameter], found: TensorModel) -> dict[str, Parameter]:
    options = {name: value for name, value in parameters.items() if name not in (_TIMEOUT, _PRIORITY)}
    for name in options:
        if name not in found.task.options:
            known = ", ".join(sorted({*found.task.options, _TIMEOUT, _PRIORITY}))
            raise InvalidField(
                f"{found.name} has no parameter {shown(name)}; it has {known}", param="parameters"
            )
    return options


def _checked_inputs(request: InferRequest, found: TensorModel, most: int) -> list[BytesTensor]:
    """The inputs, one of the sets that the task takes, all of one length.

    Raises:
        InvalidField: another set, or another shape. PayloadTooLarge: too many items.
    """
    sets = found.task.inputs_of(found.model)
    tensors = {tensor.name: tensor for tensor in request.inputs}
    if len(tensors) < len(request.inputs):
        raise InvalidField("an input is given twice", param="inputs")
    if set(tensors) not in [set(names) for names in sets]:
        got = ", ".join(shown(name) for name in list(tensors)[:8]) or "none"
        known = " or ".join(" with ".join(names) for names in sets)
        raise InvalidField(f"{found.name} takes {known}; got {got}", param="inputs")
    first = request.inputs[0]
    for tensor in request.inputs:
        if len(tensor.shape) != 1 or not tensor.shape[0]:
            raise InvalidField(
                f"{tensor.name}: the shape must be [n] with n of at least 1, got {list(tensor.shape)}",
                param=tensor.name,
            )
        if tensor.shape != first.shape:
            raise InvalidField(
                f"{tensor.name} has {tensor.shape[0]} elements and {first.name} {first.shape[0]}; "
                "item i takes the i-th of each",
                param=tensor.name,
            )
    if first.shape[0] > most:
        raise PayloadTooLarge(
            f"{first.name} has {first.shape[0]} elements, the limit is {most}",
            param=first.name,
            code="too_many_inputs",
        )
    return list(tensors.values())


def _element(tensor: BytesTensor, position: int) -> str | bytes:
    element = tensor.elements[position]
    if isinstance(element, str):
        return element
    if tensor.name == "IMAGE" and not _is_printable(element):
        return element
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"not UTF-8: {error}", param=FIELDS[tensor.name], code="malformed_text") from None


def _is_printable(element: bytes) -> bool:
    """Whether bytes are text: base64 or a URL, as JSON would carry it. No image format looks like this."""
    return not element[:_SNIFFED].translate(None, _PRINTABLE) and not element.translate(None, _PRINTABLE)


def _locate(error: ServeError, position: int) -> None:
    """Let the message say which element of which tensor is wrong."""
    tensor = next((name for name, field in FIELDS.items() if field == error.param), None)
    if tensor is not None:
        error.message = f"{tensor}[{position}]: {error.message}"
        error.param = f"{tensor}.{position}"
