"""What the small server answers: fixed values that tell which bytes and fields arrived."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

USAGE = {"image_tokens": 49, "text_tokens": 6}


class Refused(Exception):
    """An answer with the documented error shape."""

    def __init__(self, status: int, code: str, message: str = "no", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"code": code, "message": message, "param": param}


def each_alone(task: Callable[[Any], Any], item: Any) -> Any:
    try:
        return task(item)
    except Refused as refused:
        return {"error": refused.error}


def digest(image: str) -> str:
    """Tells the tests which bytes arrived."""
    if image.startswith("data:") or image.startswith("http"):
        return image
    return hashlib.sha256(base64.b64decode(image, validate=True)).hexdigest()[:12]


def vqa(body: Any) -> Any:
    if body["question"] == "":
        raise Refused(422, "invalid_field", "question must not be empty", "question")
    answers = [{"answer": digest(body["image"]), "score": 0.75}, {"answer": body["question"], "score": 0.25}]
    return {"model": body.get("model", "demo"), "answers": answers[: body.get("top_k", 5)], "usage": USAGE}


def classify(body: Any) -> Any:
    names = body.get("labels") or ["cat", "dog"]
    labels = [{"label": name, "score": 1 / (2 + place)} for place, name in enumerate(names)]
    return {"model": "demo", "head": body.get("head", "animals"), "labels": labels, "usage": USAGE}


def embed(body: Any) -> Any:
    if ("image" in body) == ("text" in body):
        raise Refused(422, "invalid_field", "give image or text", None)
    return {"model": "demo", "space_id": "s-1", "embedding": [0.6, -0.8], "usage": USAGE}


def rerank(body: Any) -> Any:
    candidates = body["images"] if "query" in body else body["texts"]
    results = [{"index": i, "relevance_score": i / 10} for i in reversed(range(len(candidates)))]
    return {"model": "demo", "results": results[: body.get("top_n")], "usage": USAGE}


def explain(body: Any) -> Any:
    fields = {name: value for name, value in body.items() if name != "task"}
    tokens = [
        {"pool": "T", "experts": [3], "gates": [0.5]},
        {"pool": "V", "experts": [], "gates": []},
        {"pool": "V", "experts": [0, 1], "gates": [0.75, 0.125]},
    ]
    return {
        "model": "demo",
        "task": body["task"],
        "head": "some",
        "tokens": ["[T_CLS]", "[I_CLS]", "[PATCH]"],
        "patch_grid": {"rows": 1, "columns": 1, "start": 2} if "image" in body else None,
        "layers": [{"layer": 1, "num_experts": 4, "tokens": tokens}],
        "answer": {"vqa": vqa, "classify": classify, "embed": embed}[body["task"]](fields),
        "usage": USAGE,
    }


def upsert(stored: dict[str, Any], items: Any) -> Any:
    errors = []
    for item in items:
        if item.get("image") == base64.b64encode(b"broken").decode():
            errors.append(
                {"id": item["id"], "error": {"code": "broken_image", "message": "broken", "param": "image"}}
            )
            continue
        stored[item["id"]] = {"metadata": item.get("metadata", {}), "text": item.get("text")}
    return {"upserted": len(items) - len(errors), "errors": errors}
