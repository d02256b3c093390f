"""The embedding of a picture or a text."""

from vlmoe_model.config import Task as HeadTask
from vlmoe_serve.answers import EmbedAnswer, EmbedResults, Result
from vlmoe_serve.catalog.models import ServedModel
from vlmoe_serve.schemas import MAX_INPUTS, EmbedBatch, EmbedOptions, EmbedRequest, Strict
from vlmoe_serve.tasks.base import Computed, Desk
from vlmoe_serve.tasks.inputs import job, one_of


async def embed(
    model: ServedModel, desk: Desk, *, image: str | bytes | None = None, text: str | None = None
) -> Computed:
    """Embeddings of unit length of the picture, the text, or of both in this order."""
    head = model.heads("contrastive")[0].name
    images = [] if image is None else [image]
    texts = [] if text is None else [text]
    return await desk.compute(
        model,
        lambda: (
            *(job(model, head, pictures=desk.pictures, image=one) for one in images),
            *(job(model, head, pictures=desk.pictures, text=one) for one in texts),
        ),
    )


def space_of(model: ServedModel) -> str:
    """The space of a model that has a contrastive head."""
    space_id = model.info.space_id
    assert space_id is not None, "a model with a contrastive head has a space"
    return space_id


class Embed:
    """One vector of unit length."""

    head_tasks: tuple[HeadTask, ...] = ("contrastive",)
    max_inputs = MAX_INPUTS
    options: type[Strict] = EmbedOptions
    request: type[Strict] = EmbedRequest
    batch: type[Strict] = EmbedBatch
    answer: type[Result] = EmbedAnswer
    results: type[Result] = EmbedResults

    async def run(self, request: EmbedRequest, desk: Desk) -> EmbedAnswer:
        """Embed one input."""
        one_of(request.image, request.text)
        model = desk.models.with_head(request.model, *self.head_tasks)
        computed = await embed(model, desk, image=request.image, text=request.text)
        return EmbedAnswer(
            model=model.name,
            space_id=space_of(model),
            embedding=computed.outputs[0].tolist(),
            usage=computed.usage(model),
        )
