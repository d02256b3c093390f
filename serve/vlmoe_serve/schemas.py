"""What the task routes take: requests checked by pydantic and shown in the OpenAPI document.

A request is one input. A call with `inputs` carries a list of them beside the options that all of them share.
Unknown fields are refused: a misspelt option that is silently ignored is a wrong answer.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

# A red square on white, 8x8.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAJklEQVR42mP8//8/AzbAxIADsECok/LycCHzhw/x6SBdgpFkVwEAebAJCzoERz8A"
    "AAAASUVORK5CYII="
)
MAX_INPUTS = 256
MAX_TOP_K = 1000
MAX_LABELS = 1000
MAX_CANDIDATES = 256
# an explanation is some hundred times larger than an answer
MAX_EXPLAINED = 16


def _is_image(value: object) -> str | bytes:
    if isinstance(value, str | bytes):
        return value
    raise PydanticCustomError("image", "Input should be a string: base64, or a data: URL")


def _is_rerank(value: object) -> object:
    if value == "auto" or isinstance(value, bool):
        return value
    raise PydanticCustomError("rerank", 'Input should be true, false or "auto"')


Image = Annotated[
    # bytes only from multipart and gRPC: JSON has none
    str | bytes,
    PlainValidator(_is_image),
    WithJsonSchema({"type": "string", "description": "base64, or a data: URL", "examples": [EXAMPLE_IMAGE]}),
]
Rerank = Annotated[
    bool | Literal["auto"],
    PlainValidator(_is_rerank),
    WithJsonSchema({"enum": ["auto", True, False], "default": "auto"}),
]
Text = Annotated[str, Field(min_length=1)]
ModelName = Annotated[
    str | None,
    Field(description="Which served model; by default the first that has the task."),
]
TopK = Annotated[int, Field(ge=1, description="How many of the best to answer with.")]


class Strict(BaseModel):
    """Nothing but the fields that are defined."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class VqaOptions(Strict):
    """What the inputs of one /vqa call share."""

    model: ModelName = None
    top_k: TopK = 5


class VqaRequest(VqaOptions):
    """A question about a picture."""

    image: Image
    question: Text = Field(examples=["what shape is this?"])


class ClassifyOptions(Strict):
    """What the inputs of one /classify call share.

    With `labels`, the input is compared with each of them in the embedding space (zero-shot).
    """

    model: ModelName = None
    head: str | None = Field(
        None, description="Which head; by default the first that takes this kind of input."
    )
    top_k: TopK = 5
    labels: Annotated[list[Text], Field(min_length=1, max_length=MAX_LABELS)] | None = None


class ClassifyRequest(ClassifyOptions):
    """A picture, a text or a pair of texts."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": EXAMPLE_IMAGE}]})

    image: Image | None = None
    text: Text | None = None
    text_pair: Text | None = Field(None, description="A second text, for heads that compare two.")


class EmbedOptions(Strict):
    """What the inputs of one /embed call share."""

    model: ModelName = None


class EmbedRequest(EmbedOptions):
    """A picture or a text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a sleeping cat"}]})

    image: Image | None = None
    text: Text | None = None


class RetrieveOptions(Strict):
    """What the inputs of one /retrieve call share."""

    model: ModelName = None
    collection: str | None = None
    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = 10
    rerank: Rerank = Field(
        "auto", description="Let a matching head order the best again; true needs a model that has one."
    )
    filter: dict[str, Any] | None = Field(
        None,
        description="A condition on the items' metadata.",
        examples=[{"kind": "shoe", "year": {"gte": 1990}}],
    )


class RetrieveInput(RetrieveOptions):
    """One query of several; the collection may be given once for all."""

    image: Image | None = None
    text: Text | None = Field(None, examples=["a sleeping cat"])


class RetrieveRequest(RetrieveInput):
    """A picture, a text, or both (their mean)."""

    collection: str = Field(examples=["gallery"])


class RerankOptions(Strict):
    """What the inputs of one /rerank call share."""

    model: ModelName = None
    top_n: Annotated[int, Field(ge=1)] | None = Field(
        None, description="How many of the best to answer with; by default all."
    )


class RerankRequest(RerankOptions):
    """A text and pictures, or a picture and texts, to be ordered by how well they fit."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"image": EXAMPLE_IMAGE, "texts": ["a red square", "a sleeping cat"]}]
        }
    )

    query: Text | None = None
    images: Annotated[list[Image], Field(min_length=1, max_length=MAX_CANDIDATES)] | None = None
    image: Image | None = None
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_CANDIDATES)] | None = None


class ExplainOptions(Strict):
    """What the inputs of one /explain/routing call share."""

    model: ModelName = None
    task: Literal["vqa", "classify", "embed"] | None = None
    head: str | None = None
    top_k: TopK = 5
    labels: Annotated[list[Text], Field(min_length=1, max_length=MAX_LABELS)] | None = None


class ExplainRequest(ExplainOptions):
    """A body of /vqa, /classify or /embed, and which of them: where the routers send its tokens."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"task": "embed", "image": EXAMPLE_IMAGE}]},
    )

    task: Literal["vqa", "classify", "embed"]
    image: Image | None = None
    question: Text | None = None
    text: Text | None = None
    text_pair: Text | None = None


class VqaBatch(VqaOptions):
    """Several questions; each input fails alone."""

    inputs: Annotated[list[VqaRequest], Field(min_length=1, max_length=MAX_INPUTS)]


class ClassifyBatch(ClassifyOptions):
    """Several inputs; each fails alone."""

    inputs: Annotated[list[ClassifyRequest], Field(min_length=1, max_length=MAX_INPUTS)]


class EmbedBatch(EmbedOptions):
    """Several inputs; each fails alone."""

    inputs: Annotated[list[EmbedRequest], Field(min_length=1, max_length=MAX_INPUTS)]


class RetrieveBatch(RetrieveOptions):
    """Several queries; each fails alone."""

    inputs: Annotated[list[RetrieveInput], Field(min_length=1, max_length=MAX_INPUTS)]


class RerankBatch(RerankOptions):
    """Several queries; each fails alone."""

    inputs: Annotated[list[RerankRequest], Field(min_length=1, max_length=MAX_INPUTS)]


class ExplainBatch(ExplainOptions):
    """Several inputs; each fails alone."""

    inputs: Annotated[list[ExplainRequest], Field(min_length=1, max_length=MAX_EXPLAINED)]
