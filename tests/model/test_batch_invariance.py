"""Whole networks over random batches of all heads: an answer has the bits that it has alone."""

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlmoe_kernels import backend
from vlmoe_kernels.choice import why_not_native
from vlmoe_model.config import ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import pack
from vlmoe_model.routing import ROUTERS

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
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
INDICES = st.lists(st.integers(0, 15), min_size=1, max_size=20)


@pytest.fixture(params=["cpu", "cpu_native"])
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu_native" and (reason := why_not_native()):
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=CONFIGS)
def wide(request: pytest.FixtureRequest, config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, dim=96, ffn_dim=200, num_heads=3, **CONFIGS[request.param])


def answers(network: VLMoE, jobs: list[Job]) -> list[Tensor]:
    """One packed forward, outputs in the order of the jobs."""
    packed = pack(jobs, network.config)
    rows = [row for output in network(packed) for row in output]
    by_job = dict(zip(packed.jobs, rows, strict=True))
    return [by_job[i] for i in range(len(jobs))]


@DTYPES
def test_an_answer_has_the_bits_that_it_has_alone(
    wide: ModelConfig,
    name: str,
    threads: int,
    dtype: torch.dtype,
    build_network: Callable[..., VLMoE],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
) -> None:
    jobs, network = mixed_jobs(wide), build_network(wide)
    assert len(jobs) == 16
    with torch.inference_mode():
        network.pack(backend(name), dtype)
        alone = [answers(network, [job])[0] for job in jobs]

    @EXAMPLES
    @given(indices=INDICES)
    def check(indices: list[int]) -> None:
        with torch.inference_mode():
            batched = answers(network, [jobs[i] for i in indices])
        assert all(torch.equal(a, alone[i]) for a, i in zip(batched, indices, strict=True))

    check()


@pytest.mark.parametrize("kind", ROUTERS)
def test_a_token_is_routed_as_it_is_alone(name: str, threads: int, kind: str) -> None:
    torch.manual_seed(0)
    router = ROUTERS[kind](96, 32, top_k=2, capacity_train=None, capacity_eval=None, noise=0.0).eval()
    x_TD = torch.randn(200, 96)
    with torch.inference_mode():
        router.requires_grad_(False).pack(backend(name))
        alone = [router(x_TD[t : t + 1]) for t in range(200)]

    @settings(max_examples=40, deadline=None)
    @given(tokens=st.lists(st.integers(0, 199), min_size=1, max_size=200))
    def check(tokens: list[int]) -> None:
        with torch.inference_mode():
            routing = router(x_TD[tokens])
        for part in ("gates_TK", "experts_TK", "logits_TE"):
            expected = torch.cat([getattr(alone[t], part) for t in tokens])
            assert torch.equal(getattr(routing, part), expected)

    check()
