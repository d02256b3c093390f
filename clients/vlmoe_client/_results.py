"""What the server answers, as typed frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Usage:
    """How much the model had to read."""

    image_tokens: int = 0
    text_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the server's time went. A field is None where the answer did not say.

    Attributes:
        encode_ms: Decoding the picture and the text.
        queue_ms: Waiting for a batch.
        forward_ms: The batch's pass through the model.
        batch_tokens: Tokens of the whole batch this request shared.
        routing_mode: How tokens were routed, where it was not as usual: the answer may be a little worse.
    """

    encode_ms: float | None = None
    queue_ms: float | None = None
    forward_ms: float | None = None
    batch_tokens: int | None = None
    routing_mode: str | None = None


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why one input of a batch failed; it takes that input's place in the list of results."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a question."""

    answer: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the results of all tasks have in common."""

    model: str
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings, compare=False)
    request_id: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VqaResult(Result):
    """The answers to a question about a picture, best first."""

    answers: tuple[Answer, ...]

    @property
    def best(self) -> Answer:
        """The answer with the highest score."""
        return self.answers[0]


@dataclass(frozen=True, slots=True)
class Label:
    """One class a picture or a text may belong to."""

    label: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyResult(Result):
    """The labels, best first.

    Attributes:
        head: Name of the checkpoint's head that answered.
        labels: At most `top_k` of them.
    """

    head: str
    labels: tuple[Label, ...]

    @property
    def best(self) -> Label:
        """The label with the highest score."""
        return self.labels[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Result):
    """A unit vector; dot products compare it with others of the same `space_id`, and with no others."""

    space_id: str
    vector: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """One item found.

    Attributes:
        id: The item's.
        score: What the hits are sorted by.
        itc: Similarity of the embeddings, the first stage.
        itm: The matching head's score, when the second stage ran.
        metadata: What was stored with the item.
    """

    id: str
    score: float
    itc: float | None = None
    itm: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveResult(Result):
    """The items nearest to the query, best first."""

    space_id: str
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate.

    Attributes:
        index: Its place among those that were sent.
        relevance_score: How well it fits the query.
    """

    index: int
    relevance_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankResult(Result):
    """The candidates, best first."""

    results: tuple[Ranked, ...]

    @property
    def best(self) -> Ranked:
        """The candidate that fits best."""
        return self.results[0]


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """How a picture's patches lie among the tokens: row by row, from the token `start` on."""

    rows: int
    columns: int
    start: int


@dataclass(frozen=True, slots=True)
class RoutedToken:
    """Where one mixture block sent a token.

    Attributes:
        pool: "V" for tokens of a picture, "T" for those of a text, "VL" for the dense layer that both share.
        experts: Those that took it, best first; none where it found no room.
        gates: The factor of each one's output.
    """

    pool: str
    experts: tuple[int, ...]
    gates: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RoutedLayer:
    """One mixture block.

    Attributes:
        layer: Its place in the network, from 0.
        num_experts: Of its pools V and T each.
        tokens: In the order of the result's `tokens`.
    """

    layer: int
    num_experts: int
    tokens: tuple[RoutedToken, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingResult(Result):
    """Which experts handled an input.

    Attributes:
        task: The task that was explained.
        head: Name of the checkpoint's head that answered.
        tokens: The sequence that the network read; patches are called [PATCH].
        patch_grid: None without a picture.
        layers: The mixture blocks.
        answer: What the task answers to the input.
    """

    task: str
    head: str
    tokens: tuple[str, ...]
    patch_grid: PatchGrid | None
    layers: tuple[RoutedLayer, ...]
    answer: VqaResult | ClassifyResult | Embedding


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of embedded items, all in one space."""

    name: str
    space_id: str
    count: int


@dataclass(frozen=True, slots=True)
class Item:
    """A stored item, without its vector."""

    id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of the items of an `add`.

    Attributes:
        upserted: Items stored; they survive a crash of the server from here on.
        errors: Why each of the others was not, by id.
    """

    upserted: int
    errors: Mapping[str, ItemError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the server has."""

    name: str
    tasks: tuple[str, ...]
    model_id: str
    space_id: str | None
    state: str
