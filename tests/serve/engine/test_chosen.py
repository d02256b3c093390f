import dataclasses
from importlib.util import find_spec
from pathlib import Path

import pytest

from vlmoe_serve.engine.chosen import check_engine
from vlmoe_serve.options import DEFAULTS

VLLM = dataclasses.replace(DEFAULTS, engine="vllm")


def test_the_default_engine_is_always_there():
    check_engine(DEFAULTS)


def test_settings_of_vllm_are_for_vllm():
    with pytest.raises(ValueError, match="needs --engine vllm"):
        check_engine(dataclasses.replace(DEFAULTS, vllm=(("enable_eplb", "true"),)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"placement": "planner"}, "--placement is for --engine torch"),
        ({"trace_routing": Path("t")}, "--trace-routing is for --engine torch"),
        ({"capacity": 0.5}, "--capacity, --experts-per-token and --brownout are for --engine torch"),
        ({"experts_per_token": 1}, "are for --engine torch"),
        ({"brownout": "on"}, "are for --engine torch"),
        ({"expert_memory_mb": 5.0}, "--expert-memory-mb is for --engine torch"),
        ({"rebalance": "on", "ranks": 2}, "--rebalance is for --engine torch"),
        ({"nodes": 2}, "--nodes is for --engine torch"),
        ({"vllm": (("nonsense", "1"),)}, "--vllm nonsense"),
    ],
)
def test_what_vllm_does_not_take_is_refused(change, says, monkeypatch):
    monkeypatch.setattr("vlmoe_serve.engine.chosen.find_spec", lambda name: object())
    with pytest.raises(ValueError, match=says):
        check_engine(dataclasses.replace(VLLM, **change))


def test_without_vllm_it_says_what_to_install():
    if find_spec("vllm") is not None:
        check_engine(VLLM)
        return
    with pytest.raises(ValueError, match=r'pip install "vlmoe\[vllm\]"'):
        check_engine(VLLM)
