"""The tasks as the Open Inference Protocol sees them: tensors in, one task body an item, tensors out.

A task that this protocol offers is one entry of `TENSOR_TASKS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmoe_model.config import Task as HeadTask
from vlmoe_serve.answers import ClassifyAnswer, EmbedAnswer, VqaAnswer
from vlmoe_serve.catalog.models import ServedModel
from vlmoe_serve.open_inference.tensors import BytesTensor, FloatTensor, Tensor, TensorSpec

# input tensors and the fields of a task's body that their elements become
FIELDS = {"IMAGE": "image", "QUESTION": "question", "TEXT": "text", "TEXT_PAIR": "text_pair"}
_TEXT_HEADS: frozenset[HeadTask] = frozenset({"text_classification"})
_IMAGE_HEADS: frozenset[HeadTask] = frozenset({"image_classification"})


@dataclass(frozen=True, slots=True)
class TensorTask:
    """One task.

    inputs: the sets of tensors it takes, each with the heads that a model needs for it.
    outputs: what it gives. options: parameters that go into every item's body.
    decode: the items' results as tensors.
    """

    inputs: Mapping[tuple[str, ...], frozenset[HeadTask]]
    outputs: Callable[[ServedModel], tuple[TensorSpec, ...]]
    options: frozenset[str]
    decode: Callable[[Sequence[Any]], tuple[Tensor, ...]]

    def inputs_of(self, model: ServedModel) -> list[tuple[str, ...]]:
        """The sets of tensors that this model takes; none if it does not have the task."""
        heads = {head.task for head in model.config.heads}
        return [names for names, needed in self.inputs.items() if heads & needed]

    def input_specs(self, model: ServedModel) -> tuple[TensorSpec, ...]:
        """Every tensor of every set."""
        names = dict.fromkeys(name for names in self.inputs_of(model) for name in names)
        return tuple(TensorSpec(name, "BYTES", (-1,)) for name in names)


def _decode_vqa(results: Sequence[VqaAnswer]) -> tuple[Tensor, ...]:
    return _ranked("ANSWER", [[(one.answer, one.score) for one in result.answers] for result in results])


def _decode_classify(results: Sequence[ClassifyAnswer]) -> tuple[Tensor, ...]:
    return _ranked("LABEL", [[(one.label, one.score) for one in result.labels] for result in results])


def _decode_embed(results: Sequence[EmbedAnswer]) -> tuple[Tensor, ...]:
    return (FloatTensor("EMBEDDING", np.array([result.embedding for result in results], np.float32)),)


def _ranked(name: str, rows: Sequence[Sequence[tuple[str, float]]]) -> tuple[Tensor, ...]:
    # one head answered all items, so all rows are of one length
    texts = [text for row in rows for text, _ in row]
    scores = np.array([[score for _, score in row] for row in rows], np.float32)
    return BytesTensor(name, scores.shape, texts), FloatTensor("SCORE", scores)


def _ranked_specs(name: str) -> Callable[[ServedModel], tuple[TensorSpec, ...]]:
    specs = TensorSpec(name, "BYTES", (-1, -1)), TensorSpec("SCORE", "FP32", (-1, -1))
    return lambda model: specs


def _embed_specs(model: ServedModel) -> tuple[TensorSpec, ...]:
    return (TensorSpec("EMBEDDING", "FP32", (-1, model.heads("contrastive")[0].out_dim)),)


TENSOR_TASKS: dict[str, TensorTask] = {
    "vqa": TensorTask(
        {("IMAGE", "QUESTION"): frozenset({"vqa"})},
        _ranked_specs("ANSWER"),
        frozenset({"top_k"}),
        _decode_vqa,
    ),
    "classify": TensorTask(
        {("IMAGE",): _IMAGE_HEADS, ("TEXT",): _TEXT_HEADS, ("TEXT", "TEXT_PAIR"): _TEXT_HEADS},
        _ranked_specs("LABEL"),
        frozenset({"top_k", "head"}),
        _decode_classify,
    ),
    "embed": TensorTask(
        {("IMAGE",): frozenset({"contrastive"}), ("TEXT",): frozenset({"contrastive"})},
        _embed_specs,
        frozenset(),
        _decode_embed,
    ),
}
