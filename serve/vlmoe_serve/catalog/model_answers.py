"""What callers are told of the served models, in the shape of OpenAI's list."""

from vlmoe_serve.answers import Result
from vlmoe_serve.catalog.models import ServedModel
from vlmoe_serve.service import Service
from vlmoe_serve.tasks import TASKS


class ModelAnswer(Result):
    """A served model, in the shape of OpenAI's list. state: loading, ready or restarting."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "vlmoe"
    tasks: list[str]
    model_id: str | None
    space_id: str | None
    state: str


class ModelsAnswer(Result):
    """All served models."""

    object: str = "list"
    data: list[ModelAnswer]


def models_answer(service: Service) -> ModelsAnswer:
    """All models."""
    return ModelsAnswer(data=[model_answer(service, model) for model in service.models])


def model_answer(service: Service, model: ServedModel) -> ModelAnswer:
    """A model as users see it."""
    done = {head.task for head in model.config.heads}
    info = model.batcher.info if service.started else None
    return ModelAnswer(
        id=model.name,
        tasks=[name for name, task in TASKS.items() if done & set(task.head_tasks)],
        model_id=None if info is None else info.model_id,
        space_id=None if info is None else info.space_id,
        state="loading" if info is None else "ready" if model.batcher.alive else "restarting",
    )
