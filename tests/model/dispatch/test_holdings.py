import pytest

from vlmoe_model.config import ModelConfig
from vlmoe_model.dispatch.holdings import Holdings


def test_even_shares_are_neighbours_and_differ_by_one(config: ModelConfig) -> None:
    shares = [held[0] for held in Holdings.even(config, 3).layers[1]]
    assert shares == [(0, 1), (2,), (3,)]
    assert [held[1] for held in Holdings.even(config, 2).layers[1]] == [(0, 1), (2, 3)]
    assert Holdings.even(config, 2).of(1) == {(1, "V"): (2, 3), (1, "T"): (2, 3)}
    assert len(Holdings.even(config, 6).layers[1]) == 6


def test_a_dense_model_has_nothing_to_hold(config: ModelConfig) -> None:
    assert Holdings.even(config.dense_twin(), 2).layers == {}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({1: (((0, 2), (0,)),)}, r"block 1: experts of pool V must count from 0, got \[0, 2\]"),
        ({1: (((0, 0), (0,)),)}, r"rank 0 must hold different experts of pool V, ascending, got \(0, 0\)"),
        ({1: (((0,), (1, 0)),)}, "pool T, ascending"),
        ({1: (((0,), (0,)),), 2: (((0,), ()), ((), (0,)))}, "held by the same ranks"),
    ],
)
def test_what_cannot_be_is_refused(layers: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Holdings(layers)


def test_holdings_of_another_network_are_refused(config: ModelConfig) -> None:
    four = (0, 1, 2, 3)
    Holdings({1: ((four, four),)}).check(config, 1)
    with pytest.raises(ValueError, match=r"placed for blocks \[0\], the mixtures are \[1\]"):
        Holdings({0: ((four, four),)}).check(config, 1)
    with pytest.raises(ValueError, match="placed on 1 ranks, there are 2"):
        Holdings({1: ((four, four),)}).check(config, 2)
    with pytest.raises(ValueError, match="block 1: 3 experts of pool T are placed, there are 4"):
        Holdings({1: ((four, (0, 1, 2)),)}).check(config, 1)
