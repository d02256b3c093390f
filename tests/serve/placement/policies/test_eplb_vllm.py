"""vLLM's own balancer beside ours; where vLLM is missing, that is said."""

import numpy as np
import pytest

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.policies import Budget, BudgetError, default_slots
from vlmoe_serve.placement.policies.eplb import eplb
from vlmoe_serve.placement.policies.eplb_vllm import eplb_vllm, is_installed


def load(pools: tuple[int, int], num_ranks: int) -> StepLoad:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.5, 60, (3, 1, sum(pools), 1)), (3, 20, sum(pools), num_ranks))
    return StepLoad((1, 3, 5), pools, counts.astype(np.int32), counts[0].sum(axis=1))


@pytest.mark.skipif(is_installed(), reason="vLLM is installed")
def test_without_vllm_it_is_refused() -> None:
    with pytest.raises(BudgetError, match="needs the package vllm, which is not installed"):
        eplb_vllm(load((4, 4), 2), Budget(slots_per_rank=6), Costs())


@pytest.mark.vllm
@pytest.mark.parametrize(("pools", "num_ranks"), [((8, 8), 2), ((32, 32), 4), ((16, 0), 4)])
def test_ours_is_written_after_the_same_description(pools: tuple[int, int], num_ranks: int) -> None:
    """The busiest rank of every layer, with tokens dealt out evenly over the copies of an expert."""
    pytest.importorskip("vllm")
    traffic = load(pools, num_ranks)
    budget = Budget(slots_per_rank=default_slots(pools, num_ranks))
    mean_LX = traffic.per_expert_LSX.mean(axis=1)
    busiest = []
    for policy in (eplb_vllm, eplb):
        hosts_LXG = policy(traffic, budget, Costs()).hosts_LXG
        assert hosts_LXG.any(axis=2).all()
        share_LX = mean_LX / hosts_LXG.sum(axis=2)
        busiest.append((share_LX[:, :, None] * hosts_LXG).sum(axis=1).max(axis=1))
    np.testing.assert_allclose(busiest[0], busiest[1], rtol=0.03)
