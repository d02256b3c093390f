"""OpenAI's embeddings request: its own form of a body, answered by the embed task item by item."""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PlainValidator, WithJsonSchema

from vlmoe_serve.answers import EmbedAnswer, Result
from vlmoe_serve.call import Call
from vlmoe_serve.catalog.models import Models
from vlmoe_serve.errors import InvalidField, ServeError
from vlmoe_serve.schemas import EmbedRequest, Image, ModelName, Strict, Text
from vlmoe_serve.service import Service
from vlmoe_serve.tasks import TASKS
from vlmoe_serve.together import together
from vlmoe_serve.validation import check, checked_list, shown

Encoding = Literal["float", "base64"]


class ImageInput(Strict):
    """A picture."""

    image: Image


class TextInput(Strict):
    """A text."""

    text: Text


class OpenAIEmbeddingsRequest(Strict):
    """A text, a picture as `{"image": ...}`, or a list of them."""

    input: Annotated[
        Any,
        PlainValidator(lambda value: value),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {"$ref": "#/components/schemas/ImageInput"},
                    {"$ref": "#/components/schemas/TextInput"},
                    {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "anyOf": [
                                {"type": "string", "minLength": 1},
                                {"$ref": "#/components/schemas/ImageInput"},
                                {"$ref": "#/components/schemas/TextInput"},
                            ]
                        },
                    },
                ],
                "examples": [["a sleeping cat", "a red shoe"]],
            }
        ),
    ]
    model: ModelName = None
    encoding_format: Encoding = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Must be the model's own: its vectors cannot be shortened."
    )
    user: str | None = Field(None, description="Not used.")


class OpenAIEmbedding(Result):
    """One vector. base64: little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class OpenAIUsage(Result):
    """How much the model had to read: tokens of texts, and patches of pictures."""

    prompt_tokens: int
    total_tokens: int


class OpenAIEmbeddingsAnswer(Result):
    """The vectors in the order of the input, of unit length. Only those of one `space_id` may be compared."""

    object: Literal["list"] = "list"
    data: list[OpenAIEmbedding]
    model: str
    space_id: str
    usage: OpenAIUsage


async def embeddings(service: Service, body: object, call: Call) -> OpenAIEmbeddingsAnswer:
    """Answer one call. The first input that fails fails it, as OpenAI's clients know no other errors.

    Raises:
        ServeError: `param` says which input it is about.
    """
    request = check(OpenAIEmbeddingsRequest, body)
    is_list = isinstance(request.input, list)
    inputs = checked_list(request.input if is_list else [request.input], "input", service.limits.max_inputs)
    fields = [_fields(value, f"input.{i}" if is_list else "input") for i, value in enumerate(inputs)]
    model = service.models.with_head(request.model, "contrastive")
    size = model.heads("contrastive")[0].out_dim
    if request.dimensions not in (None, size):
        raise InvalidField(
            f"dimensions must be {size}, which {model.name!r} has, or absent; got {request.dimensions}",
            param="dimensions",
        )
    task = TASKS["embed"]
    # one model for all inputs, also when another takes its place meanwhile
    desk = service.desk(call, Models([model]))

    async def one(position: int) -> EmbedAnswer:
        prefix = f"input.{position}." if is_list else "input."
        checked = check(EmbedRequest, {**fields[position], "model": model.name}, prefix=prefix)
        try:
            answer = await service.guarded(lambda: task.run(checked, desk), call)
        except ServeError as error:
            if error.param is not None:
                error.param = prefix + error.param
            raise
        assert isinstance(answer, EmbedAnswer)
        return answer

    answers = await together([one(position) for position in range(len(fields))])
    num_tokens = sum(answer.usage.image_tokens + answer.usage.text_tokens for answer in answers)
    return OpenAIEmbeddingsAnswer(
        data=[
            OpenAIEmbedding(index=i, embedding=_encoded(answer.embedding, request.encoding_format))
            for i, answer in enumerate(answers)
        ],
        model=model.name,
        space_id=answers[0].space_id,
        usage=OpenAIUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
    )


def _fields(value: object, param: str) -> dict[str, Any]:
    """The embed task's fields for one input.

    Raises:
        InvalidField: neither a text nor a picture.
    """
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, dict) and set(value) in ({"image"}, {"text"}):
        return value
    if isinstance(value, int | list):
        raise InvalidField(
            f"{param}: arrays of tokens are not taken, because their ids mean nothing to this model; "
            "send the text",
            param=param,
        )
    given = "an object" if isinstance(value, dict) else shown(value)
    raise InvalidField(
        f'{param}: must be a string, {{"image": IMAGE}} or {{"text": "..."}}, got {given}', param=param
    )


def _encoded(vector: list[float], encoding: Encoding) -> list[float] | str:
    if encoding == "float":
        return vector
    return base64.b64encode(np.array(vector, dtype="<f4").tobytes()).decode()
