"""What a task is, and what the service lends it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from vlmoe_model.config import Task as HeadTask
from vlmoe_model.inputs import Job
from vlmoe_serve.answers import Result, Usage
from vlmoe_serve.catalog.models import Models, ServedModel
from vlmoe_serve.encoding.pictures import Pictures
from vlmoe_serve.retrieval.manager import Collections
from vlmoe_serve.schemas import Strict

Request = TypeVar("Request", bound=Strict, contravariant=True)
Outputs = Sequence[npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """Jobs and their outputs, in the same order."""

    jobs: tuple[Job, ...]
    outputs: Outputs

    def usage(self, model: ServedModel) -> Usage:
        """The tokens that the model read."""
        counts = [job.num_tokens(model.config.patch_size) for job in self.jobs]
        return Usage(
            image_tokens=sum(image for image, _ in counts), text_tokens=sum(text for _, text in counts)
        )


class Desk(Protocol):
    """What a task works with during one call."""

    @property
    def models(self) -> Models:
        """The served models."""
        ...

    @property
    def collections(self) -> Collections:
        """The stored collections."""
        ...

    @property
    def pictures(self) -> Pictures:
        """What decodes images, within the limits."""
        ...

    async def compute(self, model: ServedModel, encode: Callable[[], tuple[Job, ...]]) -> Computed:
        """Run `encode` in a worker thread and its jobs in the model's engine."""
        ...


class Task(Protocol[Request]):
    """One task. Instances hold no state."""

    @property
    def head_tasks(self) -> tuple[HeadTask, ...]:
        """A model with a head for any of these has this task."""
        ...

    @property
    def max_inputs(self) -> int:
        """Most inputs of one call."""
        ...

    @property
    def options(self) -> type[Strict]:
        """What the inputs of one call share."""
        ...

    @property
    def request(self) -> type[Strict]:
        """One input with its options."""
        ...

    @property
    def batch(self) -> type[Strict]:
        """A call with `inputs`, for the documentation."""
        ...

    @property
    def answer(self) -> type[Result]:
        """What one input is answered with."""
        ...

    @property
    def results(self) -> type[Result]:
        """What a call with `inputs` is answered with, for the documentation."""
        ...

    async def run(self, request: Request, desk: Desk) -> Result:
        """Answer one input."""
        ...
