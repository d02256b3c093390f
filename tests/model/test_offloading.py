"""Offloaded experts: the answers of a model without a budget, to the bit."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmoe_kernels.native.library import library
from vlmoe_model.config import ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.runner import Runner

# a page an expert: each is smaller
EXPERT = 4096


@pytest.fixture
def config(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, num_layers=4, moe_blocks=(1, 2, 3), num_experts=4, vl_start=3)


@pytest.mark.parametrize(
    ("mixtures", "top_k", "dtype"), [((1, 2, 3), 1, "bf16"), ((0, 2), 2, "fp32"), ((3,), 2, "bf16")]
)
def test_answers_have_the_bits_of_a_model_without_a_budget(
    config: ModelConfig,
    build_network: Callable[..., VLMoE],
    saved: Callable[..., Path],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
    mixtures: tuple[int, ...],
    top_k: int,
    dtype: str,
) -> None:
    config = dataclasses.replace(config, moe_blocks=mixtures, top_k=top_k)
    path = saved(state=build_network(config).state_dict(), config=config)
    jobs = mixed_jobs(config)
    batches = [jobs, *([job] for job in jobs), jobs]
    whole = Runner.load(path, dtype=dtype, backend="cpu_native")
    expected = [whole.run(batch) for batch in batches]
    assert whole.take_expert_memory() is None
    for room in (8, 13, 100):
        runner = Runner.load(path, dtype=dtype, backend="cpu_native", expert_memory=room * EXPERT)
        for batch, answers in zip(batches, expected, strict=True):
            for answer, other in zip(runner.run(batch), answers, strict=True):
                assert np.array_equal(answer, other)
        counts = runner.take_expert_memory()
        assert counts is not None
        assert counts.resident_bytes <= counts.budget_bytes == room * EXPERT
        assert counts.read_bytes % EXPERT == 0
        assert counts.in_memory + counts.ahead + counts.missed > 0
        if room >= 8 * len(mixtures):
            # everything is read once
            assert counts.read_bytes == counts.resident_bytes
            assert counts.missed + counts.ahead <= counts.read_bytes // EXPERT
    assert library().packed_bytes(torch.float32, config.dim, config.ffn_dim) * 2 <= EXPERT


def test_what_the_next_router_says_now_is_read_ahead(
    config: ModelConfig,
    build_network: Callable[..., VLMoE],
    saved: Callable[..., Path],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
) -> None:
    path = saved(state=build_network(config).state_dict(), config=config)
    runner = Runner.load(path, backend="cpu_native", expert_memory=24 * EXPERT)
    runner.run(mixed_jobs(config))
    counts = runner.take_expert_memory()
    assert counts is not None
    # nothing was in memory; every mixture was foreseen, the first one by the block before it
    assert counts.in_memory == 0
    assert counts.ahead > counts.missed


def test_what_cannot_be_offloaded_is_refused(
    config: ModelConfig, build_network: Callable[..., VLMoE], saved: Callable[..., Path]
) -> None:
    path = saved(state=build_network(config).state_dict(), config=config)
    with pytest.raises(ValueError, match=r"does not hold the 8 experts of one block: at least 1 MB"):
        Runner.load(path, backend="cpu_native", expert_memory=7 * EXPERT)
    with pytest.raises(ValueError, match=r"with the C\+\+ kernels only, and cpu was chosen"):
        Runner.load(path, backend="cpu", expert_memory=100 * EXPERT)
    dense = dataclasses.replace(config, moe_blocks=(), num_experts=1, vl_start=None)
    path = saved(state=build_network(dense).state_dict(), config=dense)
    with pytest.raises(ValueError, match="no mixture blocks"):
        Runner.load(path, backend="cpu_native", expert_memory=100 * EXPERT)
