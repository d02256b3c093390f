"""JSON answers to typed results. A missing field raises `KeyError`; `Call.result` says so in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ._call import Reply
from ._results import (
    AddResult,
    Answer,
    ClassifyResult,
    Collection,
    Embedding,
    Hit,
    Item,
    ItemError,
    Label,
    Model,
    PatchGrid,
    Ranked,
    RerankResult,
    RetrieveResult,
    RoutedLayer,
    RoutedToken,
    RoutingResult,
    Usage,
    VqaResult,
)

R = TypeVar("R")
Json = Mapping[str, Any]


def one(read: Callable[[Json, Reply], R]) -> Callable[[Reply], R]:
    """Reader of an answer that is one result."""
    return lambda reply: read(reply.json(), reply)


def many(read: Callable[[Json, Reply], R], num_inputs: int) -> Callable[[Reply], list[R | ItemError]]:
    """Reader of an answer to `inputs`: each a result or an error, in the order they were sent."""

    def read_all(reply: Reply) -> list[R | ItemError]:
        body = reply.json()
        results = body["results"]
        if len(results) != num_inputs:
            raise ValueError(f"({len(results)} results for {num_inputs} inputs)")
        # what all items share may stand once, at the top
        shared = {name: value for name, value in body.items() if name != "results"}
        return [
            read_error(item["error"]) if "error" in item else read({**shared, **item}, reply)
            for item in results
        ]

    return read_all


def read_error(error: Json) -> ItemError:
    """The error of one item."""
    return ItemError(str(error["code"]), str(error["message"]), error.get("param"))


def read_vqa(body: Json, reply: Reply) -> VqaResult:
    """A result of `/vqa`."""
    answers = tuple(Answer(str(each["answer"]), float(each["score"])) for each in body["answers"])
    return VqaResult(answers=answers, **_common(body, reply))


def read_classify(body: Json, reply: Reply) -> ClassifyResult:
    """A result of `/classify`."""
    labels = tuple(Label(str(each["label"]), float(each["score"])) for each in body["labels"])
    return ClassifyResult(head=str(body["head"]), labels=labels, **_common(body, reply))


def read_embedding(body: Json, reply: Reply) -> Embedding:
    """A result of `/embed`."""
    vector = tuple(float(value) for value in body["embedding"])
    return Embedding(space_id=str(body["space_id"]), vector=vector, **_common(body, reply))


def read_retrieve(body: Json, reply: Reply) -> RetrieveResult:
    """A result of `/retrieve`."""
    hits = tuple(
        Hit(
            id=str(each["id"]),
            score=float(each["score"]),
            itc=_optional_float(each.get("itc")),
            itm=_optional_float(each.get("itm")),
            metadata=each.get("metadata") or {},
        )
        for each in body["hits"]
    )
    return RetrieveResult(space_id=str(body["space_id"]), hits=hits, **_common(body, reply))


def read_rerank(body: Json, reply: Reply) -> RerankResult:
    """A result of `/rerank`."""
    results = tuple(Ranked(int(each["index"]), float(each["relevance_score"])) for each in body["results"])
    return RerankResult(results=results, **_common(body, reply))


def read_routing(body: Json, reply: Reply) -> RoutingResult:
    """A result of `/explain/routing`."""
    # over gRPC it lies in a field of its own
    body = body.get("routing", body)
    grid = body["patch_grid"]
    readers: dict[str, Callable[[Json, Reply], VqaResult | ClassifyResult | Embedding]] = {
        "vqa": read_vqa,
        "classify": read_classify,
        "embed": read_embedding,
    }
    return RoutingResult(
        task=str(body["task"]),
        head=str(body["head"]),
        tokens=tuple(str(token) for token in body["tokens"]),
        patch_grid=None
        if grid is None
        else PatchGrid(int(grid["rows"]), int(grid["columns"]), int(grid["start"])),
        layers=tuple(
            RoutedLayer(
                int(layer["layer"]),
                int(layer["num_experts"]),
                tuple(
                    RoutedToken(
                        str(token["pool"]),
                        tuple(int(expert) for expert in token["experts"]),
                        tuple(float(gate) for gate in token["gates"]),
                    )
                    for token in layer["tokens"]
                ),
            )
            for layer in body["layers"]
        ),
        answer=readers[body["task"]](body["answer"], reply),
        **_common(body, reply),
    )


def read_collection(body: Json) -> Collection:
    """A collection's description."""
    return Collection(str(body["name"]), str(body["space_id"]), int(body["count"]))


def read_item(body: Json) -> Item:
    """A stored item."""
    return Item(str(body["id"]), body.get("metadata") or {})


def read_added(body: Json) -> AddResult:
    """What became of a chunk of items."""
    return AddResult(
        int(body["upserted"]), {str(each["id"]): read_error(each["error"]) for each in body["errors"]}
    )


def read_model(body: Json) -> Model:
    """An entry of `/v1/models`."""
    return Model(
        name=str(body["id"]),
        tasks=tuple(str(task) for task in body["tasks"]),
        model_id=str(body["model_id"]),
        space_id=body.get("space_id"),
        state=str(body["state"]),
    )


def _common(body: Json, reply: Reply) -> dict[str, Any]:
    usage = body.get("usage") or {}
    return {
        "model": str(body["model"]),
        "usage": Usage(int(usage.get("image_tokens", 0)), int(usage.get("text_tokens", 0))),
        "timings": reply.timings,
        "request_id": reply.request_id,
    }


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)
