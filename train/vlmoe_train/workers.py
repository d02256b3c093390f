"""Data parallelism: every worker takes its share of each batch, gradients are averaged, all stay equal.

Start them with torchrun; one worker a core beats threads here, since a step is thousands of small operations:

    torchrun --nproc-per-node 2 -m vlmoe_train train --recipe demo --out DIR --threads 1
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True, slots=True)
class Worker:
    """Which of how many workers this process is."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this worker writes logs and checkpoints."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """The rows of a batch that this worker takes."""
        return slice(self.rank, None, self.world)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Mean over the workers, in one exchange. A parameter that no row reached has a gradient of zero."""
        learning = [p for p in parameters if p.requires_grad]
        if self.world == 1:
            for parameter in learning:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            return
        flat = torch.cat(
            [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in learning]
        )
        dist.all_reduce(flat)
        flat /= self.world
        for parameter, part in zip(learning, torch.split(flat, [p.numel() for p in learning]), strict=True):
            parameter.grad = part.view_as(parameter)


def join_workers() -> Worker:
    """The place that torchrun gave this process; alone without torchrun."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Worker()
    dist.init_process_group("gloo")
    return Worker(dist.get_rank(), world)


def leave_workers() -> None:
    """Close the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
