"""The packed network answers what a padded one does."""

from collections.abc import Callable

import torch

from vlmoe_model.config import ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE

from .asking import answers, packed_for
from .padded import Padded


@torch.no_grad()
def test_the_packed_network_is_the_padded_one(
    variant: ModelConfig,
    cpu_backend: str,
    build_network: Callable[..., VLMoE],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
) -> None:
    network, jobs = build_network(variant), mixed_jobs(variant)
    expected = Padded(network)(jobs)
    for actual in (answers(network, jobs), answers(packed_for(cpu_backend, network), jobs)):
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-4, atol=2e-5)
