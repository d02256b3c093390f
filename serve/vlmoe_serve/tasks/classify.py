"""The class of a picture or a text: by a head trained on the classes, or zero-shot by given labels."""

import numpy as np

from vlmoe_model.config import HeadConfig
from vlmoe_model.config import Task as HeadTask
from vlmoe_model.inputs import Job
from vlmoe_serve.answers import ClassifyAnswer, ClassifyResults, Result, ScoredLabel
from vlmoe_serve.catalog.models import ServedModel
from vlmoe_serve.encoding.pictures import Pictures
from vlmoe_serve.errors import InvalidField
from vlmoe_serve.schemas import MAX_INPUTS, ClassifyBatch, ClassifyOptions, ClassifyRequest, Strict
from vlmoe_serve.tasks.base import Computed, Desk
from vlmoe_serve.tasks.inputs import job, one_of
from vlmoe_serve.tasks.scores import best, softmax


class Classify:
    """Labels best first."""

    head_tasks: tuple[HeadTask, ...] = ("image_classification", "text_classification", "contrastive")
    max_inputs = MAX_INPUTS
    options: type[Strict] = ClassifyOptions
    request: type[Strict] = ClassifyRequest
    batch: type[Strict] = ClassifyBatch
    answer: type[Result] = ClassifyAnswer
    results: type[Result] = ClassifyResults

    async def run(self, request: ClassifyRequest, desk: Desk) -> ClassifyAnswer:
        """Classify one input."""
        _check(request)
        model, head = _choose(request, desk)
        computed = await desk.compute(model, lambda: _encode(request, model, head, desk.pictures))
        labels = tuple(request.labels or model.labels(head))
        logits = _similarities(computed, model) if request.labels else computed.outputs[0]
        return ClassifyAnswer(
            model=model.name,
            head=head.name,
            labels=[
                ScoredLabel(label=labels[i], score=score) for i, score in best(softmax(logits), request.top_k)
            ],
            usage=computed.usage(model),
        )


def _check(request: ClassifyRequest) -> None:
    one_of(request.image, request.text)
    if request.text_pair is not None and (request.text is None or request.labels):
        problem = (
            "text_pair needs text"
            if request.text is None
            else "labels compare with one text, not with a pair"
        )
        raise InvalidField(problem, param="text_pair")


def _choose(request: ClassifyRequest, desk: Desk) -> tuple[ServedModel, HeadConfig]:
    wanted: HeadTask = "text_classification" if request.image is None else "image_classification"
    if request.labels:
        wanted = "contrastive"
    if request.head is None:
        model = desk.models.with_head(request.model, wanted)
        return model, model.heads(wanted)[0]
    candidates = list(desk.models) if request.model is None else [desk.models.named(request.model)]
    heads = [(model, head) for model in candidates for head in model.heads(wanted)]
    for model, head in heads:
        if head.name == request.head:
            return model, head
    known = ", ".join(dict.fromkeys(head.name for _, head in heads)) or "none"
    raise InvalidField(
        f"no {wanted} head {request.head[:80]!r}; for this input there are: {known}", param="head"
    )


def _encode(
    request: ClassifyRequest, model: ServedModel, head: HeadConfig, pictures: Pictures
) -> tuple[Job, ...]:
    query = job(
        model,
        head.name,
        pictures=pictures,
        image=request.image,
        text=request.text,
        text_pair=request.text_pair,
    )
    labels = request.labels or []
    return query, *(
        job(model, head.name, pictures=pictures, text=label, text_param=f"labels.{i}")
        for i, label in enumerate(labels)
    )


def _similarities(computed: Computed, model: ServedModel) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    query, *labels = computed.outputs
    return np.asarray(model.info.logit_scale * (np.stack(labels) @ query), dtype=np.float32)
