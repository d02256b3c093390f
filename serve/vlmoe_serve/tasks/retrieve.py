"""The items of a collection that are most similar to a picture, a text, or both."""

import numpy as np

from vlmoe_model.config import Task as HeadTask
from vlmoe_serve.answers import Result, RetrieveAnswer, RetrieveResults, ScoredItem
from vlmoe_serve.catalog.models import ServedModel
from vlmoe_serve.errors import InvalidField, SpaceConflict
from vlmoe_serve.retrieval.filters import compile_filter
from vlmoe_serve.retrieval.manager import CollectionInfo
from vlmoe_serve.schemas import MAX_INPUTS, RetrieveBatch, RetrieveOptions, RetrieveRequest, Strict
from vlmoe_serve.tasks.base import Desk
from vlmoe_serve.tasks.embed import embed, space_of


class Retrieve:
    """Hits best first, by cosine similarity."""

    head_tasks: tuple[HeadTask, ...] = ("contrastive",)
    max_inputs = MAX_INPUTS
    options: type[Strict] = RetrieveOptions
    request: type[Strict] = RetrieveRequest
    batch: type[Strict] = RetrieveBatch
    answer: type[Result] = RetrieveAnswer
    results: type[Result] = RetrieveResults

    async def run(self, request: RetrieveRequest, desk: Desk) -> RetrieveAnswer:
        """Answer one query."""
        if request.image is None and request.text is None:
            raise InvalidField("image or text is missing", param="text")
        if request.rerank is True:
            raise InvalidField("no served model has a matching head; use false or auto", param="rerank")
        keep = None if request.filter is None else compile_filter(request.filter)
        model = model_for(await desk.collections.get(request.collection), request.model, desk)
        computed = await embed(model, desk, image=request.image, text=request.text)
        mean = np.mean(computed.outputs, axis=0)
        # two opposite embeddings have no mean direction; any answer is as good
        query = mean / max(float(np.linalg.norm(mean)), 1e-12)
        hits = await desk.collections.search(
            request.collection, query.astype(np.float32), request.top_k, keep
        )
        return RetrieveAnswer(
            model=model.name,
            space_id=space_of(model),
            hits=[
                ScoredItem(id=hit.id, score=hit.score, itc=hit.score, itm=None, metadata=dict(hit.metadata))
                for hit in hits
            ],
            usage=computed.usage(model),
        )


def model_for(collection: CollectionInfo, name: str | None, desk: Desk) -> ServedModel:
    """The model whose embeddings a collection holds.

    Raises:
        SpaceConflict: the named model, or every served one, is of another space.
    """
    if name is None:
        candidates = [model for model in desk.models if model.heads("contrastive")]
    else:
        candidates = [desk.models.with_head(name, "contrastive")]
    for model in candidates:
        if model.info.space_id == collection.space_id:
            return model
    have = (
        ", ".join(f"{model.name} has {model.info.space_id}" for model in candidates)
        or "no model has embeddings"
    )
    raise SpaceConflict(
        f"collection {collection.name!r} holds embeddings of space {collection.space_id}; {have}",
        param="collection",
    )
