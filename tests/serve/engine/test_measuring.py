"""The program that measures, run as it is run for `vlmoe plan --measure`."""

import pytest

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.machines import Sizes
from vlmoe_serve.placement.measured import measure_costs


@pytest.mark.parametrize("weight_bytes", [1, 2, 4])
def test_all_that_this_machine_has_is_measured(weight_bytes: int) -> None:
    sizes = Sizes(dim=64, ffn_dim=128, weight_bytes=weight_bytes, shared_parameters=1000)
    costs = measure_costs("cpu", sizes)
    assert 0 < costs.token_us < 1000
    assert costs.expert_bytes == sizes.expert_bytes
    assert costs.token_bytes == 64 * max(2, weight_bytes)
    assert 0 < costs.start_us < 100_000
    assert costs.dense_token_us > 0
    assert costs.move_bytes_per_us > 0
    assert costs.origin.startswith("measured on one thread of ")
    assert f"experts of 64 x 128, {8 * weight_bytes} bits a weight" in costs.origin
    assert costs.origin.endswith("by name, not measured: the link between hosts")


def test_a_larger_expert_takes_longer() -> None:
    small, large = (
        measure_costs("cpu", Sizes(dim=dim, ffn_dim=4 * dim, weight_bytes=4, shared_parameters=0))
        for dim in (32, 384)
    )
    # 144 times the multiplications
    assert large.token_us > 5 * small.token_us


@pytest.mark.gpu
def test_a_gpu_is_measured_too() -> None:
    costs: Costs = measure_costs("cuda", Sizes(dim=768, ffn_dim=3072, weight_bytes=2, shared_parameters=0))
    assert 0 < costs.token_us < 1.0
    assert 0 < costs.expert_us < 100.0
    assert 0 < costs.start_us < 10_000.0
    assert "with triton on " in costs.origin
