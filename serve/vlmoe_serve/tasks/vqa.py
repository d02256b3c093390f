"""A question about a picture."""

from vlmoe_model.config import Task as HeadTask
from vlmoe_serve.answers import Result, ScoredAnswer, VqaAnswer, VqaResults
from vlmoe_serve.schemas import MAX_INPUTS, Strict, VqaBatch, VqaOptions, VqaRequest
from vlmoe_serve.tasks.base import Desk
from vlmoe_serve.tasks.inputs import job
from vlmoe_serve.tasks.scores import best, softmax


class Vqa:
    """Answers are classes: the head scores each answer it was trained on."""

    head_tasks: tuple[HeadTask, ...] = ("vqa",)
    max_inputs = MAX_INPUTS
    options: type[Strict] = VqaOptions
    request: type[Strict] = VqaRequest
    batch: type[Strict] = VqaBatch
    answer: type[Result] = VqaAnswer
    results: type[Result] = VqaResults

    async def run(self, request: VqaRequest, desk: Desk) -> VqaAnswer:
        """Answer one question."""
        model = desk.models.with_head(request.model, *self.head_tasks)
        head = model.heads(*self.head_tasks)[0]
        computed = await desk.compute(
            model,
            lambda: (
                job(
                    model,
                    head.name,
                    pictures=desk.pictures,
                    image=request.image,
                    text=request.question,
                    text_param="question",
                ),
            ),
        )
        labels = model.labels(head)
        return VqaAnswer(
            model=model.name,
            answers=[
                ScoredAnswer(answer=labels[i], score=score)
                for i, score in best(softmax(computed.outputs[0]), request.top_k)
            ],
            usage=computed.usage(model),
        )
