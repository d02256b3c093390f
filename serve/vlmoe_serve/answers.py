"""What the task routes answer, as the doors send it and the OpenAPI document shows it."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Result(BaseModel):
    """Base of everything that is answered."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Usage(Result):
    """How much the model had to read."""

    image_tokens: int = 0
    text_tokens: int = 0


class ScoredAnswer(Result):
    """One answer to a question, and its probability."""

    answer: str
    score: float


class VqaAnswer(Result):
    """The best answers, best first."""

    model: str
    answers: list[ScoredAnswer]
    usage: Usage


class ScoredLabel(Result):
    """One label and its probability."""

    label: str
    score: float


class ClassifyAnswer(Result):
    """The best labels, best first."""

    model: str
    head: str
    labels: list[ScoredLabel]
    usage: Usage


class EmbedAnswer(Result):
    """An embedding of unit length. Only embeddings with the same `space_id` may be compared."""

    model: str
    space_id: str
    embedding: list[float]
    usage: Usage


class ScoredItem(Result):
    """One found item. itc: cosine similarity. itm: the matching head's probability, null without one."""

    id: str
    score: float
    itc: float
    itm: float | None
    metadata: dict[str, Any]


class RetrieveAnswer(Result):
    """The best items, best first."""

    model: str
    space_id: str
    hits: list[ScoredItem]
    usage: Usage


class RankedCandidate(Result):
    """A candidate by its place in the request, and its cosine similarity to the query."""

    index: int
    relevance_score: float


class RerankAnswer(Result):
    """The candidates, best first."""

    model: str
    results: list[RankedCandidate]
    usage: Usage


class PatchGrid(Result):
    """How a picture's patches lie among the tokens: row by row, from the token `start` on."""

    rows: int
    columns: int
    start: int


class RoutedToken(Result):
    """Where a mixture block sent a token: the pool of its modality, its experts, and the factors of their outputs.

    A choice that found no room is left out. The pool VL is one dense layer: expert 0, factor 1.
    """

    pool: str
    experts: list[int]
    gates: list[float]


class RoutedLayer(Result):
    """A mixture block, counted from 0, and its tokens in the order of `tokens`. num_experts: of its pools V and T."""

    layer: int
    num_experts: int
    tokens: list[RoutedToken]


class ExplainAnswer(Result):
    """Which experts handled an input, and what the task answers to it.

    tokens: the sequence that the network read; patches are called [PATCH]. patch_grid: null without a picture.
    """

    model: str
    task: str
    head: str
    tokens: list[str]
    patch_grid: PatchGrid | None
    layers: list[RoutedLayer]
    answer: VqaAnswer | ClassifyAnswer | EmbedAnswer
    usage: Usage


class ErrorBody(Result):
    """What went wrong. param: the path of the field it is about."""

    code: str
    message: str
    param: str | None


class ErrorAnswer(Result):
    """Every error has this shape."""

    error: ErrorBody


class OpenInferenceError(Result):
    """Every error on the routes of the Open Inference Protocol: its clients read a sentence."""

    error: str


class VqaResults(Result):
    """The answers to `inputs`, in their order; each may be an error."""

    results: list[VqaAnswer | ErrorAnswer]


class ClassifyResults(Result):
    """The answers to `inputs`, in their order; each may be an error."""

    results: list[ClassifyAnswer | ErrorAnswer]


class EmbedResults(Result):
    """The answers to `inputs`, in their order; each may be an error."""

    results: list[EmbedAnswer | ErrorAnswer]


class RetrieveResults(Result):
    """The answers to `inputs`, in their order; each may be an error."""

    results: list[RetrieveAnswer | ErrorAnswer]


class RerankResults(Result):
    """The answers to `inputs`, in their order; each may be an error."""

    results: list[RerankAnswer | ErrorAnswer]


class ExplainResults(Result):
    """The answers to `inputs`, in their order; each may be an error."""

    results: list[ExplainAnswer | ErrorAnswer]
