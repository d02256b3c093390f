import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmoe_kernels import Pool, backend, make_plan
from vlmoe_kernels.choice import choose_backend
from vlmoe_kernels.collectives import Group
from vlmoe_model.config import ModelConfig
from vlmoe_model.dispatch.expert_parallel import ExpertParallel, Shares
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.runner import Runner

# pools of a layer: four experts for each modality, and one layer for pairs
SIZES, ROUTED = (4, 4, 1), (True, True, False)
NUM_GROUPS = sum(SIZES)
CPU = choose_backend("auto", "cpu")


def pool(num_experts: int, seed: int) -> Pool:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((16, 8), (16,), (8, 16), (8,))
    return Pool(*(torch.randn(num_experts, *shape, generator=generator) for shape in shapes))


def plan_of(num_tokens: int, top_k: int, seed: int):
    """Random choices: dropped ones, and (where there are two) pairs with one choice only."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(-1, NUM_GROUPS, (num_tokens, top_k), generator=generator)
    gates = torch.rand(num_tokens, top_k, generator=generator)
    return make_plan(groups, gates, NUM_GROUPS)


def test_equal_shares() -> None:
    shares = Shares.equal(SIZES, ROUTED, 2)
    assert shares.by_rank == ((0, 1, 4, 5), (2, 3, 6, 7))
    assert shares.local_ids == (0, 1, 2, 3)
    assert (shares.here, shares.here_ids, shares.num_local) == ((8,), (4,), 5)


def test_experts_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="4 experts cannot be shared equally by 3 ranks"):
        Shares.equal(SIZES, ROUTED, 3)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted({"cpu", CPU}))
def test_ranks_together_have_the_bits_of_one(
    in_group, num_ranks: int, top_k: int, dtype: torch.dtype, name: str
) -> None:
    """Ranks with many tokens, with few, and with none; the fallback, and what this machine runs."""
    pools = [Pool._make(t if t is None else t.to(dtype) for t in pool(n, n + i)) for i, n in enumerate(SIZES)]
    whole = backend(name).grouped_ffn(pools, 1e-6)
    tokens = [torch.randn(n, 8, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (23, 1, 0, 7)]

    def work(group: Group) -> bool:
        mine = []
        for pool, routed in zip(pools, ROUTED, strict=True):
            share = pool.w1.shape[0] // group.size
            part = slice(group.rank * share, (group.rank + 1) * share) if routed else slice(None)
            mine.append(Pool._make(t if t is None else t[part] for t in pool))
        experts = backend(name).grouped_ffn(mine, 1e-6)
        dispatch = ExpertParallel(group, Shares.equal(SIZES, ROUTED, group.size))
        x_TD = tokens[group.rank]
        same = []
        for seed in range(3):
            plan = plan_of(len(x_TD), top_k, seed + 10 * group.rank)
            same.append(torch.equal(dispatch(x_TD, plan, experts), whole(x_TD, plan)))
        return all(same)

    assert in_group(num_ranks, work) == [True] * num_ranks


@pytest.mark.parametrize(("num_ranks", "dtype"), [(2, "fp32"), (2, "bf16"), (4, "fp32")])
def test_a_model_over_ranks_answers_with_the_bits_of_one(
    in_group,
    config: ModelConfig,
    build_network: Callable[..., VLMoE],
    saved: Callable[..., Path],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
    num_ranks: int,
    dtype: str,
) -> None:
    """Every head; jobs shared out unevenly, the last rank has none; both steps."""
    config = dataclasses.replace(config, top_k=2, moe_blocks=(0, 1))
    path = saved(state=build_network(config).state_dict(), config=config)
    jobs = mixed_jobs(config)
    alone = Runner.load(path, dtype=dtype)
    expected = alone.run(jobs)

    def work(group: Group) -> list[np.ndarray]:
        runner = Runner.load(path, dtype=dtype, group=group)
        assert runner.num_parameters == alone.num_parameters
        assert runner.run(jobs if group.rank == 0 else []) is not None
        return runner.run(jobs[group.rank :: group.size - 1] if group.rank < group.size - 1 else [])

    results = in_group(num_ranks, work)
    for rank, outputs in enumerate(results[:-1]):
        for answer, whole in zip(outputs, expected[rank :: num_ranks - 1], strict=True):
            assert np.array_equal(answer, whole)
    assert results[-1] == []


def test_a_rank_holds_its_share_of_the_experts_only(
    in_group, config: ModelConfig, build_network: Callable[..., VLMoE]
) -> None:
    def work(group: Group) -> dict[str, int]:
        network = build_network(config)
        network.share_experts(group)
        return {name: p.shape[0] for name, p in network.named_parameters() if name.endswith("w1")}

    for shapes in in_group(2, work):
        assert shapes["encoder.blocks.1.ffn.pools.V.w1"] == config.num_experts // 2
        assert shapes["encoder.blocks.1.ffn.pools.VL.w1"] == 1
        assert shapes["encoder.blocks.0.ffn.pools.T.w1"] == 1
