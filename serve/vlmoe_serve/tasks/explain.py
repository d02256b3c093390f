"""Which experts handle an input: another task's request, run by that task, with the routes of its first sequence.

request -> the task's own request -> task.run at a desk that asks for routes -> answer and routes
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vlmoe_model.config import Task as HeadTask
from vlmoe_model.explanation import LayerRoutes, from_numbers
from vlmoe_model.inputs import Job
from vlmoe_serve.answers import (
    ClassifyAnswer,
    EmbedAnswer,
    ExplainAnswer,
    ExplainResults,
    PatchGrid,
    Result,
    RoutedLayer,
    RoutedToken,
    VqaAnswer,
)
from vlmoe_serve.catalog.models import Models, ServedModel
from vlmoe_serve.encoding.pictures import Pictures
from vlmoe_serve.errors import InvalidField
from vlmoe_serve.retrieval.manager import Collections
from vlmoe_serve.schemas import MAX_EXPLAINED, ExplainBatch, ExplainOptions, ExplainRequest, Strict
from vlmoe_serve.tasks.base import Computed, Desk, Task
from vlmoe_serve.tasks.classify import Classify
from vlmoe_serve.tasks.embed import Embed
from vlmoe_serve.tasks.vqa import Vqa
from vlmoe_serve.validation import check

_TASKS: dict[str, Task[Any]] = {"vqa": Vqa(), "classify": Classify(), "embed": Embed()}
_POOLS = ("V", "T", "VL")
_GATE_DIGITS = 6


class ExplainRouting:
    """Of labels that a picture is compared with, only the picture is explained."""

    # no task of a model's own: it shows how the others are done
    head_tasks: tuple[HeadTask, ...] = ()
    max_inputs = MAX_EXPLAINED
    options: type[Strict] = ExplainOptions
    request: type[Strict] = ExplainRequest
    batch: type[Strict] = ExplainBatch
    answer: type[Result] = ExplainAnswer
    results: type[Result] = ExplainResults

    async def run(self, request: ExplainRequest, desk: Desk) -> ExplainAnswer:
        """Explain one input."""
        task = _TASKS[request.task]
        fields = {name: getattr(request, name) for name in request.model_fields_set - {"task"}}
        asking = _AskingDesk(desk)
        answer = await task.run(check(task.request, fields), asking)
        assert isinstance(answer, VqaAnswer | ClassifyAnswer | EmbedAnswer), answer
        model, job, layers = asking.found[0]
        tokens, grid = _tokens(model, job)
        return ExplainAnswer(
            model=model.name,
            task=request.task,
            head=job.head,
            tokens=tokens,
            patch_grid=grid,
            layers=[_layer(one, model) for one in layers],
            answer=answer,
            usage=answer.usage,
        )


@dataclass(frozen=True, slots=True)
class _AskingDesk:
    """A desk at which the first job of what is computed is explained."""

    desk: Desk
    found: list[tuple[ServedModel, Job, list[LayerRoutes]]] = field(default_factory=list)

    @property
    def models(self) -> Models:
        """See `Desk`."""
        return self.desk.models

    @property
    def collections(self) -> Collections:
        """See `Desk`."""
        return self.desk.collections

    @property
    def pictures(self) -> Pictures:
        """See `Desk`."""
        return self.desk.pictures

    async def compute(self, model: ServedModel, encode: Callable[[], tuple[Job, ...]]) -> Computed:
        """See `Desk`.

        Raises:
            InvalidField: the model's engine keeps its routes to itself.
        """

        def asking() -> tuple[Job, ...]:
            first, *others = encode()
            return replace(first, explain=True), *others

        computed = await self.desk.compute(model, asking)
        job, (output, *others) = computed.jobs[0], computed.outputs
        size = model.config.head(job.head).out_dim
        try:
            layers = from_numbers(output[size:], model.config, sum(job.num_tokens(model.config.patch_size)))
        except ValueError:
            raise InvalidField(
                f"the engine of model {model.name!r} does not tell what its routers choose", param="model"
            ) from None
        self.found.append((model, job, layers))
        return Computed(computed.jobs, [output[:size], *others])


def _tokens(model: ServedModel, job: Job) -> tuple[list[str], PatchGrid | None]:
    """The sequence as words, and where its patches lie in it."""
    text: Sequence[str] = ()
    if job.example.tokens is not None:
        text = model.processor.tokenizer.tokens(job.example.tokens)
    if job.example.image is None:
        return [*text], None
    height, width, _ = job.example.image.shape
    rows, columns = height // model.config.patch_size, width // model.config.patch_size
    picture = ["[I_CLS]", *["[PATCH]"] * (rows * columns)]
    if model.config.order == "text_first":
        return [*text, *picture], PatchGrid(rows=rows, columns=columns, start=len(text) + 1)
    return [*picture, *text], PatchGrid(rows=rows, columns=columns, start=1)


def _layer(routes: LayerRoutes, model: ServedModel) -> RoutedLayer:
    tokens = []
    for pool, experts, gates in zip(
        routes.pools_T.tolist(), routes.experts_TK.tolist(), routes.gates_TK.tolist(), strict=True
    ):
        kept = [place for place, expert in enumerate(experts) if expert >= 0]
        tokens.append(
            RoutedToken(
                pool=_POOLS[pool],
                experts=[experts[place] for place in kept],
                gates=[round(gates[place], _GATE_DIGITS) for place in kept],
            )
        )
    return RoutedLayer(layer=routes.layer, num_experts=model.config.num_experts, tokens=tokens)
