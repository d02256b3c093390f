"""Whole networks over random batches of all heads: an answer has the bits that it has alone."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlmoe_kernels import backend
from vlmoe_model.config import ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE

from .asking import answers

# what differs from the tiny configuration, beside widths that are worth two threads
CONFIGS = {
    "two choices, norms everywhere": {
        "top_k": 2,
        "sub_ln": True,
        "multiway_attention": True,
        "vl_start": None,
    },
    "relative positions": {"relative_position": True, "absolute_position": False, "moe_blocks": (0, 1)},
}
# the fixtures are values and are not changed
EXAMPLES = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
INDICES = st.lists(st.integers(0, 15), min_size=1, max_size=20)


@pytest.fixture(params=CONFIGS)
def wide(request: pytest.FixtureRequest, config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, dim=96, ffn_dim=200, num_heads=3, **CONFIGS[request.param])


@DTYPES
def test_an_answer_has_the_bits_that_it_has_alone(
    wide: ModelConfig,
    cpu_backend: str,
    threads: int,
    dtype: torch.dtype,
    build_network: Callable[..., VLMoE],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
) -> None:
    jobs, network = mixed_jobs(wide), build_network(wide)
    assert len(jobs) == 16
    with torch.inference_mode():
        network.pack(backend(cpu_backend), dtype)
        alone = [answers(network, [job])[0] for job in jobs]

    @EXAMPLES
    @given(indices=INDICES)
    def check(indices: list[int]) -> None:
        with torch.inference_mode():
            batched = answers(network, [jobs[i] for i in indices])
        assert all(torch.equal(a, alone[i]) for a, i in zip(batched, indices, strict=True))

    check()
