import pytest

from vlmoe_model.routing_mode import DEFAULT, RoutingMode
from vlmoe_serve.option_readers import ModelChoice, switch
from vlmoe_serve.options import DEFAULTS, OPTIONS, Options


def test_every_field_is_an_option_with_a_text_for_help():
    assert set(OPTIONS) == set(Options.__dataclass_fields__)
    assert all(option.help and option.metavar for option in OPTIONS.values())


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("demo", "demo", "demo"),
        ("a=b", "a", "b"),
        ("a=b=c", "a", "b=c"),
        ("dir/x=y", "x-y", "dir/x=y"),
        ("/m/vqa.v2", "vqa.v2", "/m/vqa.v2"),
        ("/m/caf\u00e9 1", "caf--1", "/m/caf\u00e9 1"),
        ("/", "model", "/"),
    ],
)
def test_a_model_is_called_by_its_name_or_its_directory(text, name, path):
    assert OPTIONS["model"].read(text) == ModelChoice(name, path)


def test_megabytes_are_decimal():
    assert DEFAULTS.max_body_bytes == 32_000_000


def test_a_capacity_holds_always_or_only_under_overload():
    always = Options(capacity=0.5, overflow="reroute", experts_per_token=1)
    assert always.routing_mode == RoutingMode(0.5, "reroute", 1)
    assert always.brownout_mode is None
    under_load = Options(capacity=0.5, overflow="reroute", experts_per_token=1, brownout="on")
    assert under_load.routing_mode == DEFAULT
    assert under_load.brownout_mode == RoutingMode(0.5, "reroute", 1)
    assert Options().routing_mode == DEFAULT
    assert Options().brownout_mode is None


def test_a_brownout_needs_no_more_than_being_turned_on():
    assert Options(brownout="on").brownout_mode == RoutingMode(0.25, "priority")
    assert Options(brownout="on", experts_per_token=1).brownout_mode == RoutingMode(top_k=1)


@pytest.mark.parametrize(("text", "value"), [("on", "on"), ("off", "off"), ("true", "on"), ("False", "off")])
def test_what_yaml_makes_of_on_and_off_is_understood(text, value):
    assert switch(text) == value


def test_a_switch_is_on_or_off():
    with pytest.raises(ValueError, match="must be one of off, on"):
        switch("perhaps")
