"""Before a model takes another's place: both answer the same few inputs, and the answers are compared.

The inputs are made here, the same ones every time: noise, gradients and a few phrases. They show a model that is broken
or quite another one, not which of two good ones is better; nothing that a caller has sent is kept for this.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlmoe_model.config import HeadConfig
from vlmoe_model.inputs import Job
from vlmoe_serve.answers import Result
from vlmoe_serve.catalog.models import ServedModel

Vector = npt.NDArray[np.float32]
_SIDE = 64
_TEXTS = (
    "a cat",
    "what is it",
    "is there a red circle",
    "two shoes on a table",
    "no",
    "the sun over the sea",
)


class CanaryFailed(ValueError):
    """The new model's answers are no answers; one line."""


class HeadReport(Result):
    """How one head of the new model answers beside the old one's of the same name.

    agreement: share of inputs with the same best label. similarity: mean cosine of the embeddings. Both are null
    where the old model has no such head, or one that cannot be compared.
    """

    head: str
    inputs: int
    agreement: float | None = None
    similarity: float | None = None

    @property
    def likeness(self) -> float:
        """Whichever of the two there is; 1 where there is nothing to compare."""
        found = self.similarity if self.agreement is None else self.agreement
        return 1.0 if found is None else found


async def compare(new: ServedModel, old: ServedModel | None) -> list[HeadReport]:
    """Let the new model answer, and the old one for the heads that both have.

    Raises:
        CanaryFailed: an output of the new model is not finite or has the wrong size.
        ServeError: an engine does not answer.
    """
    reports = []
    for head in new.config.heads:
        answers = await _answers(new, head)
        for answer in answers:
            if answer.shape != (head.out_dim,) or not np.isfinite(answer).all():
                raise CanaryFailed(f"head {head.name!r} answers with numbers that are not finite")
        reports.append(await _compared(new, old, head, answers))
    return reports


async def _compared(
    new: ServedModel, old: ServedModel | None, head: HeadConfig, answers: Sequence[Vector]
) -> HeadReport:
    same = None if old is None else next((h for h in old.config.heads if h.name == head.name), None)
    if old is None or same is None or same.task != head.task:
        return HeadReport(head=head.name, inputs=len(answers))
    before = await _answers(old, same)
    if head.task != "contrastive":
        best = [new.labels(head)[int(answer.argmax())] for answer in answers]
        best_before = [old.labels(same)[int(answer.argmax())] for answer in before]
        equal = [a == b for a, b in zip(best, best_before, strict=True)]
        return HeadReport(head=head.name, inputs=len(answers), agreement=sum(equal) / len(equal))
    if head.out_dim != same.out_dim:
        return HeadReport(head=head.name, inputs=len(answers), similarity=0.0)
    # of vectors in float32: the length of some is a little more than 1
    cosines = [float(a @ b) for a, b in zip(answers, before, strict=True)]
    return HeadReport(head=head.name, inputs=len(answers), similarity=min(1.0, sum(cosines) / len(cosines)))


async def _answers(model: ServedModel, head: HeadConfig) -> Sequence[Vector]:
    outcome = await model.batcher.submit(_jobs(model, head), priority="batch", admitted=True)
    return outcome.outputs


def _jobs(model: ServedModel, head: HeadConfig) -> list[Job]:
    example = model.processor.example
    pictures, texts = _pictures(), _TEXTS
    if head.task == "vqa":
        return [
            Job(head.name, example(head.name, image=picture, text=text))
            for picture, text in zip(pictures, texts, strict=True)
        ]
    jobs = []
    if head.task != "text_classification":
        jobs += [Job(head.name, example(head.name, image=picture)) for picture in pictures]
    if head.task != "image_classification":
        jobs += [Job(head.name, example(head.name, text=text)) for text in texts]
    return jobs


def _pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 255, _SIDE, dtype=np.uint8)
    arrays = [random.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8) for _ in range(2)]
    arrays += [np.broadcast_to(ramp[:, None, None], (_SIDE, _SIDE, 3))]
    for channel in range(3):
        blot = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
        blot[16:48, 8 + 8 * channel : 40 + 8 * channel] = 255 * np.eye(3, dtype=np.uint8)[channel]
        arrays.append(blot)
    return [Image.fromarray(np.ascontiguousarray(array)) for array in arrays]
