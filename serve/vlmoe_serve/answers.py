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
