"""The contract that an answer ignores its batch, in every variant; and where it does not hold."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from vlmoe_model.config import ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE

from .asking import answers, packed_for


def assert_independent_of_the_batch(network: VLMoE, jobs: Sequence[Job]) -> None:
    """Bit for bit: alone, in part of the batch, in another order, and twice."""
    whole = answers(network, jobs)
    for indices in (*([i] for i in range(len(jobs))), [3, 1, 2], [*range(len(jobs))][::-1], [0, 0, 5, 0]):
        part = answers(network, [jobs[i] for i in indices])
        assert all(torch.equal(a, whole[i]) for a, i in zip(part, indices, strict=True)), indices


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_an_answer_does_not_depend_on_its_batch(
    variant: ModelConfig,
    cpu_backend: str,
    dtype: torch.dtype,
    build_network: Callable[..., VLMoE],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
) -> None:
    network = packed_for(cpu_backend, build_network(variant), dtype)
    assert_independent_of_the_batch(network, mixed_jobs(variant))


@pytest.fixture
def three_threads() -> Iterator[None]:
    """An uneven number: chunks of work end in the middle of a row."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@torch.inference_mode()
@pytest.mark.usefixtures("three_threads")
def test_nor_does_it_with_several_threads(
    config: ModelConfig, build_network: Callable[..., VLMoE], mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    network = packed_for("cpu", build_network(dataclasses.replace(config, stem="gradient")))
    assert_independent_of_the_batch(network, mixed_jobs(config))


@torch.inference_mode()
@pytest.mark.parametrize("router", ["top_k", "batch_priority"])
def test_with_a_capacity_an_answer_does_depend_on_its_batch(
    config: ModelConfig,
    router: str,
    build_network: Callable[..., VLMoE],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
) -> None:
    config = dataclasses.replace(config, router=router, capacity_eval=1.0)
    network, jobs = packed_for("cpu", build_network(config)), mixed_jobs(config)
    whole = answers(network, jobs)
    assert not all(torch.equal(answers(network, [job])[0], w) for job, w in zip(jobs, whole, strict=True))
