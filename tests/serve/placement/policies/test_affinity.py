import numpy as np

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.policies import Budget
from vlmoe_serve.placement.policies.affinity import affinity


def test_experts_that_see_the_same_traffic_follow_each_other() -> None:
    # expert x of the first layer hands its tokens to expert (x + 1) % 4 of the second
    rng = np.random.default_rng(0)
    first = rng.poisson(100 * np.eye(4)[rng.integers(0, 4, 200)] + 20).astype(np.int32)
    counts = np.stack([first, np.roll(first, 1, axis=1)])[..., None].repeat(2, axis=3)
    load = StepLoad((1, 3), (4, 0), counts, np.ones((200, 2), np.int64))
    hosts = affinity(load, Budget(slots_per_rank=2), Costs()).hosts_LXG
    np.testing.assert_array_equal(hosts[1], np.roll(hosts[0], 1, axis=0))
