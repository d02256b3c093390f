import dataclasses

import pytest

from vlmoe_model.config import ModelConfig
from vlmoe_model.routing_mode import DEFAULT, RoutingMode


def test_names_say_what_is_changed_and_the_default_has_none() -> None:
    assert DEFAULT.name == ""
    assert RoutingMode(0.5).name == "capacity=0.5;overflow=priority"
    assert RoutingMode(1.0, "drop", 1).name == "capacity=1;overflow=drop;top_k=1"
    assert RoutingMode(top_k=2).name == "top_k=2"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"capacity": 0.0}, "capacity must be from 0.01 to 64, got 0"),
        ({"capacity": float("nan")}, "capacity must be from"),
        ({"overflow": "wait"}, "overflow must be one of drop, priority, reroute, got 'wait'"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
    ],
)
def test_impossible_modes_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoutingMode(**fields)  # type: ignore[arg-type]


def test_on_a_network_only_what_changes_something_is_left(config: ModelConfig) -> None:
    two = dataclasses.replace(config, top_k=2)
    assert RoutingMode(top_k=1).on(two) == RoutingMode(top_k=1)
    assert RoutingMode(top_k=2).on(two) == RoutingMode(top_k=4).on(two) == DEFAULT
    assert RoutingMode(overflow="drop").on(two) == DEFAULT
    assert RoutingMode(0.5, "drop", 4).on(two) == RoutingMode(0.5, "drop")
    assert RoutingMode(0.5, top_k=1).on(config.dense_twin()) == DEFAULT


def test_a_checkpoint_that_asks_for_a_capacity_is_declared_too(config: ModelConfig) -> None:
    asks = dataclasses.replace(config, capacity_eval=1.0)
    assert DEFAULT.on(asks) == RoutingMode(1.0, "drop")
    assert DEFAULT.on(dataclasses.replace(asks, router="batch_priority")) == RoutingMode(1.0, "priority")
    assert RoutingMode(0.5).on(asks) == RoutingMode(0.5)


def test_embeddings_of_another_mode_lie_in_another_space(config: ModelConfig) -> None:
    own = "s-0123456789ab"
    assert DEFAULT.space(own, config) == own
    assert RoutingMode(top_k=3).space(own, config) == own
    assert RoutingMode(0.5).space(own, config.dense_twin()) == own
    assert DEFAULT.space(own, dataclasses.replace(config, capacity_eval=1.0)) == own
    spaces = {
        RoutingMode(factor, how).space(own, config) for factor in (0.5, 1.0) for how in ("drop", "reroute")
    }
    assert len(spaces) == 4
    assert own not in spaces
    assert all(len(space) == len(own) and space.startswith("s-") for space in spaces)
