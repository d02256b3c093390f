"""What experts and ranks had to do, summed over layers and steps."""

import numpy as np
import pytest

from vlmoe_model.config import ModelConfig
from vlmoe_serve.engine.meter import ExpertMeter, resident_bytes

CONFIG = ModelConfig(
    dim=8,
    num_layers=3,
    num_heads=2,
    ffn_dim=16,
    vocab_size=120,
    image_size=8,
    patch_size=4,
    max_text=12,
    moe_blocks=(0, 2),
    num_experts=2,
)


def test_one_rank_counts_what_experts_get() -> None:
    meter = ExpertMeter(CONFIG, 1, 16)
    meter.observe(0, (1, 2, 3, 0), None)
    meter.observe(2, (6, 0, 0, 0), None)
    meter.end_step()
    meter.observe(2, (0, 0, 0, 1), None)
    meter.end_step()
    meter.end_step()
    load = meter.take()
    assert load.layers == (0, 2)
    assert load.tokens_LX.tolist() == [[1, 2, 3, 0], [6, 0, 0, 1]]
    assert load.rank_tokens_G.tolist() == [13]
    assert (load.num_layers, load.busiest, load.mean, load.ratio, load.balance) == (3, 13, 13, 3, 3)
    assert load.all_to_all_bytes == 0
    assert meter.take().tokens_LX.sum() == 0


def test_what_a_device_has_counted_counts_like_its_steps() -> None:
    by_step, at_once = (ExpertMeter(CONFIG, 1, 16) for _ in range(2))
    for counts in ((1, 2, 3, 0), (0, 0, 0, 4)):
        by_step.observe(2, counts, None)
        by_step.end_step()
    at_once.add(2, (1, 2, 3, 4), 2)
    expected, found = by_step.take(), at_once.take()
    assert found.tokens_LX.tolist() == expected.tokens_LX.tolist()
    assert found.rank_tokens_G.tolist() == expected.rank_tokens_G.tolist()
    for name in ("num_layers", "busiest", "mean", "ratio", "balance", "all_to_all_bytes"):
        assert getattr(found, name) == getattr(expected, name)


def test_several_ranks_are_compared_layer_by_layer() -> None:
    meter = ExpertMeter(CONFIG, 2, 16)
    counts = np.array([[4, 0], [1, 3], [0, 0], [0, 0]])
    flow = np.zeros((4, 2, 2), np.int64)
    flow[0] = [[2, 2], [0, 0]]
    flow[1] = [[0, 1], [0, 3]]
    meter.observe(0, counts, flow)
    meter.observe(2, counts, np.array([np.diag(row) for row in counts]))
    meter.end_step()
    meter.observe(0, np.zeros_like(counts), np.zeros_like(flow))
    meter.end_step()
    load = meter.take()
    assert load.tokens_LX.tolist() == [[4, 4, 0, 0], [4, 4, 0, 0]]
    # (2, 6), then (5, 3) tokens; a layer without tokens has no balance
    assert load.rank_tokens_G.tolist() == [7, 9]
    assert (load.num_layers, load.busiest, load.mean) == (2, 11, 8)
    assert load.ratio == pytest.approx(6 / 4 + 5 / 4)
    assert load.balance == pytest.approx(4 / 6 + 4 / 5)
    assert load.all_to_all_bytes == 2 * 3 * 16


def test_loads_add_up() -> None:
    meter = ExpertMeter(CONFIG, 1, 16)
    meter.observe(0, (1, 2, 3, 0), None)
    meter.end_step()
    one = meter.take()
    both = one.plus(one)
    assert one.is_like(both)
    assert both.tokens_LX.tolist() == [[2, 4, 6, 0], [0, 0, 0, 0]]
    assert (both.num_layers, both.busiest) == (2, 12)
    assert not one.is_like(ExpertMeter(CONFIG, 2, 16).take())


def test_a_process_takes_memory() -> None:
    assert resident_bytes() > 1 << 20
