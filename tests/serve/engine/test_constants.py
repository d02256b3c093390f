import dataclasses
from pathlib import Path

import pytest

from vlmoe_serve.engine import constants
from vlmoe_serve.engine.base import EngineOptions, Rendezvous
from vlmoe_serve.engine.constants import costs_for
from vlmoe_serve.placement.costs import Costs, CostsError
from vlmoe_serve.placement.machines import CPU, Sizes
from vlmoe_serve.placement.rebalancing import RebalanceOptions

from .tiny import CONFIG

OPTIONS = EngineOptions(Path("model"), "cpu", "fp32", ranks=2)
MOVING = dataclasses.replace(OPTIONS, rebalance=RebalanceOptions())
FOUND = Costs(token_us=7.0, origin="a stop watch")


def test_a_server_that_places_and_records_nothing_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "kept_costs", lambda *asked: pytest.fail("measured"))
    assert CPU.name in costs_for(OPTIONS, CONFIG).origin
    assert costs_for(dataclasses.replace(MOVING, costs=FOUND), CONFIG) == FOUND


@pytest.mark.parametrize("more", [{"rebalance": RebalanceOptions()}, {"trace_dir": Path("trace")}])
def test_moves_and_traces_are_measured_for_the_model(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, object]
) -> None:
    asked: list[tuple[str, Sizes]] = []

    def kept(device: str, sizes: Sizes) -> Costs:
        asked.append((device, sizes))
        return FOUND

    monkeypatch.setattr(constants, "kept_costs", kept)
    options = dataclasses.replace(OPTIONS, **more)
    assert costs_for(options, CONFIG) == FOUND
    ((device, sizes),) = asked
    assert (device, sizes.dim, sizes.ffn_dim, sizes.weight_bytes) == ("cpu", CONFIG.dim, CONFIG.ffn_dim, 4)
    over_nodes = dataclasses.replace(options, ranks=4, rendezvous=Rendezvous(2, 0, "127.0.0.1", 1))
    assert costs_for(over_nodes, CONFIG).ranks_per_node == 2


def test_what_cannot_be_measured_is_another_machines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def kept(device: str, sizes: Sizes) -> Costs:
        raise CostsError("measuring failed: no compiler")

    monkeypatch.setattr(constants, "kept_costs", kept)
    assert CPU.name in costs_for(MOVING, CONFIG).origin
    assert "measuring failed: no compiler; experts are placed with constants of " in caplog.text
