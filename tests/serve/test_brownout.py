"""The switch without a clock, and what is browned out and what is not."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.inputs import Example, Job
from vlmoe_model.routing_mode import DEFAULT, RoutingMode
from vlmoe_serve.brownout import Brownout, Switch, Thresholds

LIMITS = Thresholds(enter_ms=500, leave_ms=100, enter_s=0.5, hold_s=5.0, max_hold_s=30.0)
IMAGE = ImageSpec(size=16)
CONFIG = ModelConfig(
    dim=16,
    num_layers=2,
    num_heads=2,
    ffn_dim=32,
    vocab_size=120,
    image_size=16,
    patch_size=4,
    max_text=12,
    moe_blocks=(1,),
    num_experts=4,
    heads=(
        HeadConfig(name="shapes", task="image_classification", out_dim=2, image=IMAGE, max_text=0),
        HeadConfig(name="matching", task="contrastive", out_dim=6, image=IMAGE, max_text=8),
    ),
)


@dataclass(frozen=True)
class Model:
    """As much of a served model as the brownout looks at."""

    name: str = "tiny"
    config: ModelConfig = CONFIG


def job(head: str) -> Job:
    return Job(head, Example(image=np.zeros((16, 16, 3), np.uint8)), explain=True)


def overloaded(switch: Switch, since_s: float, until_s: float) -> None:
    for step in range(round((until_s - since_s) / 0.1) + 1):
        switch.observe(since_s + step * 0.1, 600)


def calm(switch: Switch, since_s: float, until_s: float) -> None:
    for step in range(round((until_s - since_s) / 0.1) + 1):
        switch.observe(since_s + step * 0.1, 10)


def test_it_begins_when_overload_lasts_and_ends_when_calm_lasts() -> None:
    switch = Switch(LIMITS)
    assert not switch.observe(0.0, 600)
    assert not switch.observe(0.4, 600)
    assert not switch.on
    assert switch.observe(0.5, 600)
    assert switch.on
    assert not switch.observe(1.0, 600)
    assert not switch.observe(2.0, 50)
    assert not switch.observe(6.9, 50)
    assert switch.on
    assert switch.observe(7.0, 50)
    assert not switch.on


def test_a_moment_of_calm_starts_the_count_anew() -> None:
    switch = Switch(LIMITS)
    for second in range(20):
        switch.observe(second, 600)
        switch.observe(second + 0.4, 600)
        switch.observe(second + 0.45, 50)
    assert not switch.on


def test_what_lies_between_changes_nothing() -> None:
    switch = Switch(LIMITS)
    switch.observe(0.0, 600)
    switch.observe(0.2, 300)
    # the overload goes on: nobody has seen calm in between
    assert switch.observe(0.6, 600)
    switch.observe(1.0, 50)
    # and neither is this calm any more
    switch.observe(3.0, 300)
    switch.observe(4.0, 50)
    assert not switch.observe(6.1, 50)
    assert switch.on
    assert switch.observe(9.0, 50)


def test_a_refusal_is_overload_however_short_the_queue_is() -> None:
    """Callers with short deadlines are refused long before the queue is full."""
    switch = Switch(LIMITS)
    switch.observe(0.0, 20, refused=True)
    assert switch.observe(0.5, 20, refused=True)


def test_who_is_let_in_between_refusals_is_no_calm() -> None:
    """Every third has a deadline that can be kept."""
    switch = Switch(LIMITS)
    began = [
        step for step in range(1000) if switch.observe(step * 0.001, 20, refused=step % 3 > 0) and switch.on
    ]
    assert len(began) == 1
    assert began[0] * 0.001 == pytest.approx(LIMITS.enter_s, abs=0.005)
    # when refusals have ended it is calm, a little later
    assert not switch.observe(1.1, 20)
    assert not switch.observe(1.3, 20)
    assert not switch.observe(6.2, 20)
    assert switch.observe(6.4, 20)
    assert not switch.on


def test_a_single_refusal_now_and_then_is_no_overload() -> None:
    switch = Switch(LIMITS)
    for second in range(20):
        switch.observe(second, 20, refused=True)
        switch.observe(second + 0.1, 20)
        switch.observe(second + 0.3, 20)
    assert not switch.on


def test_relapses_make_it_more_patient_up_to_a_bound() -> None:
    switch, now_s, holds = Switch(LIMITS), 0.0, []
    for _ in range(5):
        overloaded(switch, now_s, now_s + 0.6)
        assert switch.on
        began_s = now_s + 0.7
        now_s = began_s
        while switch.on:
            switch.observe(now_s, 10)
            now_s += 0.1
        holds.append(round(now_s - 0.1 - began_s, 1))
    # in steps of a tenth
    assert holds == pytest.approx([5, 10, 20, 30, 30], abs=0.15)
    # after a long peace it is as it was
    calm(switch, now_s, now_s + 60)
    overloaded(switch, now_s + 60.1, now_s + 60.8)
    assert switch.on
    calm(switch, now_s + 61, now_s + 66)
    assert not switch.on


@given(st.lists(st.tuples(st.floats(0.01, 3), st.floats(0, 1000), st.booleans()), max_size=80))
@settings(max_examples=100, deadline=None)
def test_it_never_switches_without_its_reason(steps: list[tuple[float, float, bool]]) -> None:
    """Every beginning follows `enter_s` without calm, every end `hold_s` without overload."""
    switch, now_s = Switch(LIMITS), 0.0
    last_calm_s = last_overload_s = 0.0
    last_refusal_s = -1.0
    for gap_s, wait_ms, refused in steps:
        now_s += gap_s
        if switch.observe(now_s, wait_ms, refused=refused):
            if switch.on:
                assert now_s - last_calm_s >= LIMITS.enter_s
            else:
                assert now_s - last_overload_s >= LIMITS.hold_s
        if refused or wait_ms >= LIMITS.enter_ms:
            last_overload_s = now_s
            last_refusal_s = now_s if refused else last_refusal_s
        elif wait_ms <= LIMITS.leave_ms and now_s - last_refusal_s >= LIMITS.refusal_s:
            last_calm_s = now_s


def browned_out(mode: RoutingMode, told: list[Any] | None = None) -> Brownout:
    brownout = Brownout(mode, LIMITS, lambda *switched: None if told is None else told.append(switched))
    for now_s in (0.0, 1.0):
        brownout.observe("tiny", now_s, 600)
        brownout.observe("other", now_s, 0)
    return brownout


def test_only_the_overloaded_model_is_browned_out_and_somebody_is_told() -> None:
    told: list[Any] = []
    brownout = browned_out(RoutingMode(0.5), told)
    assert brownout.states() == {"tiny": True, "other": False}
    assert told == [("tiny", True)]
    jobs, name = brownout.applied(Model(), [job("shapes")])
    assert name == "capacity=0.5;overflow=priority"
    assert [(one.mode, one.explain) for one in jobs] == [(RoutingMode(0.5), True)]
    jobs = [job("shapes")]
    for name in ("other", "unheard of"):
        assert brownout.applied(Model(name=name), jobs) == (jobs, "")


def test_embeddings_are_never_browned_out() -> None:
    jobs = [job("matching")]
    assert browned_out(RoutingMode(0.5)).applied(Model(), jobs) == (jobs, "")


def test_a_mode_that_changes_nothing_is_not_claimed() -> None:
    jobs = [job("shapes")]
    for mode in (RoutingMode(top_k=1), DEFAULT):
        assert browned_out(mode).applied(Model(), jobs) == (jobs, "")
    dense = Model(config=CONFIG.dense_twin())
    assert browned_out(RoutingMode(0.5)).applied(dense, jobs) == (jobs, "")


def test_thresholds_follow_the_longest_wait() -> None:
    assert (Thresholds.of(2000).enter_ms, Thresholds.of(2000).leave_ms) == (500, 100)
    with pytest.raises(ValueError, match="leave_ms must be from 0 to below 5, got 5"):
        Thresholds(enter_ms=5, leave_ms=5)
    with pytest.raises(ValueError, match="hold_s from above 0"):
        Thresholds(enter_ms=5, leave_ms=1, hold_s=0)
