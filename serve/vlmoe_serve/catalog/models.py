"""The models that are served, and which of them answers a request."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlmoe_model.checkpoint.directory import CheckpointDir
from vlmoe_model.config import HeadConfig, ModelConfig, Task
from vlmoe_model.processor import Processor
from vlmoe_serve.batching.batcher import Batcher
from vlmoe_serve.catalog.family import Member
from vlmoe_serve.engine.protocol import EngineInfo
from vlmoe_serve.errors import InvalidField, NotFound


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ServedModel:
    """One checkpoint with the engine that runs it."""

    name: str
    directory: CheckpointDir
    processor: Processor
    batcher: Batcher | Member

    @property
    def config(self) -> ModelConfig:
        """The network's and its heads' configuration."""
        return self.directory.config

    @property
    def info(self) -> EngineInfo:
        """What the engine says about itself."""
        return self.batcher.info

    def heads(self, *tasks: Task) -> list[HeadConfig]:
        """The heads that do one of these tasks, in the checkpoint's order."""
        return [head for head in self.config.heads if head.task in tasks]

    def labels(self, head: HeadConfig) -> tuple[str, ...]:
        """The labels of a head's outputs."""
        return self.directory.labels[head.name]


class Models:
    """All served models, in the order they were given. A change makes another value of this class."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = {model.name: model for model in models}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def get(self, name: str) -> ServedModel | None:
        """The model of that name, if there is one."""
        return self._models.get(name)

    def with_model(self, model: ServedModel) -> "Models":
        """These, with one more, or in the place of the one of its name."""
        return Models(list({**self._models, model.name: model}.values()))

    def without(self, name: str) -> "Models":
        """These without the one of that name."""
        return Models([model for model in self if model.name != name])

    def named(self, name: str) -> ServedModel:
        """The model of that name.

        Raises:
            NotFound: with the names that exist.
        """
        model = self._models.get(name)
        if model is None:
            known = ", ".join(self._models)
            raise NotFound(
                f"no model {name[:80]!r}; served are {known}", code="model_not_found", param="model"
            )
        return model

    def with_head(self, name: str | None, *tasks: Task) -> ServedModel:
        """The named model, or the first one with a head for one of these tasks.

        Raises:
            NotFound: no such model. InvalidField: it has no such head.
        """
        candidates = [self.named(name)] if name is not None else list(self)
        for model in candidates:
            if model.heads(*tasks):
                return model
        who = "no served model has" if name is None else f"model {name!r} does not have"
        raise InvalidField(f"{who} a head for {' or '.join(tasks)}", param="model")
