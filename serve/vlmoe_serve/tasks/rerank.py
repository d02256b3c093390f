"""Candidates by their similarity to a query: pictures to a text, or texts to a picture."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vlmoe_model.config import Task as HeadTask
from vlmoe_serve.answers import RankedCandidate, RerankAnswer, RerankResults, Result
from vlmoe_serve.errors import InvalidField, ServeError
from vlmoe_serve.schemas import MAX_INPUTS, RerankBatch, RerankOptions, RerankRequest, Strict
from vlmoe_serve.tasks.base import Computed, Desk
from vlmoe_serve.tasks.embed import embed
from vlmoe_serve.together import together


class Rerank:
    """Candidates best first, scored by cosine similarity in the embedding space.

    Each candidate is an input of its own to the engine, so a long list shares its batches with everybody else's.
    """

    head_tasks: tuple[HeadTask, ...] = ("contrastive",)
    max_inputs = MAX_INPUTS
    options: type[Strict] = RerankOptions
    request: type[Strict] = RerankRequest
    batch: type[Strict] = RerankBatch
    answer: type[Result] = RerankAnswer
    results: type[Result] = RerankResults

    async def run(self, request: RerankRequest, desk: Desk) -> RerankAnswer:
        """Answer one query."""
        _check(request)
        model = desk.models.with_head(request.model, *self.head_tasks)

        async def one(param: str, image: str | bytes | None = None, text: str | None = None) -> Computed:
            try:
                return await embed(model, desk, image=image, text=text)
            except ServeError as error:
                if error.param is not None:
                    error.param = param
                raise

        if request.query is not None:
            query = one("query", text=request.query)
            candidates = [one(f"images.{i}", image=image) for i, image in enumerate(request.images or ())]
        else:
            query = one("image", image=request.image)
            candidates = [one(f"texts.{i}", text=text) for i, text in enumerate(request.texts or ())]
        first, *others = await together([query, *candidates])
        scores = np.stack([other.outputs[0] for other in others]) @ first.outputs[0]
        return RerankAnswer(
            model=model.name,
            results=_ranked(scores, request.top_n),
            usage=_all([first, *others]).usage(model),
        )


def _check(request: RerankRequest) -> None:
    by_text = request.query is not None
    wrong = {
        "query": by_text and request.image is not None,
        "images": (request.images is not None) != by_text,
        "texts": (request.texts is not None) == by_text,
        "image": not by_text and request.image is None,
    }
    for param, is_wrong in wrong.items():
        if is_wrong:
            raise InvalidField("give query with images, or image with texts", param=param)


def _ranked(scores: npt.NDArray[np.float32], top_n: int | None) -> list[RankedCandidate]:
    order: Sequence[int] = np.argsort(-scores, kind="stable")[:top_n].tolist()
    return [RankedCandidate(index=i, relevance_score=float(scores[i])) for i in order]


def _all(parts: Sequence[Computed]) -> Computed:
    return Computed(
        tuple(job for part in parts for job in part.jobs),
        [output for part in parts for output in part.outputs],
    )
