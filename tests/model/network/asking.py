"""Answers of a network, one for each job."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmoe_kernels import backend
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import pack


def answers(network: VLMoE, jobs: Sequence[Job]) -> list[Tensor]:
    """One packed forward, outputs in the order of the jobs."""
    packed = pack(jobs, network.config)
    rows = [row for output in network(packed) for row in output]
    by_job = dict(zip(packed.jobs, rows, strict=True))
    return [by_job[i] for i in range(len(jobs))]


def packed_for(name: str, network: VLMoE, dtype: torch.dtype = torch.float32) -> VLMoE:
    """Give the network's weights to a backend."""
    network.requires_grad_(False).pack(backend(name), dtype)
    return network
