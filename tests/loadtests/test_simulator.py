import dataclasses
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmoe_loadtests.arrivals import bursts, poisson
from vlmoe_loadtests.simulator.__main__ import ENGINES
from vlmoe_loadtests.simulator.policies import CAPACITY, MAX_ITEMS, POLICIES, Ours, Sent
from vlmoe_loadtests.simulator.report import Report, report, table
from vlmoe_loadtests.simulator.simulation import Fate, simulate
from vlmoe_loadtests.simulator.workload import RAGGED, TEXTS, mean_work, tickets
from vlmoe_serve.batching.cost import CostModel, Sample
from vlmoe_serve.batching.ticket import Ticket, Work

CPU, GPU = ENGINES["cpu"], ENGINES["gpu"]


def run(name, kinds, engine, load, seconds, *, arrivals=poisson, noise=0.1):
    capacity = 1e6 / engine.drain_ms(mean_work(kinds, 0), 100.0)
    arriving = tickets(arrivals(load * capacity, seconds, 0), kinds, 0)
    return arriving, simulate(POLICIES[name](engine), arriving, engine, noise=noise)


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("load", [0.5, 2.0])
def test_every_ticket_has_exactly_one_fate(name, load):
    arriving, fates = run(name, RAGGED, CPU, load, 10.0)
    assert sorted(fate.ticket.id for fate in fates) == [ticket.id for ticket in arriving]
    assert {fate.outcome for fate in fates} <= {"answered", "refused", "dropped"}
    assert all(fate.done_s >= fate.ticket.arrival_s for fate in fates)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_same_seed_gives_the_same_figures(name):
    first, second = (
        [(fate.ticket.id, fate.outcome, fate.done_s) for fate in run(name, RAGGED, CPU, 1.0, 5.0)[1]]
        for _ in range(2)
    )
    assert first == second


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 2), st.integers(1, 1000), st.none() | st.floats(0.001, 1.0)), max_size=60
    ),
    st.sampled_from(sorted(POLICIES)),
)
def test_no_policy_loses_or_invents_a_ticket(drawn, name):
    arriving = [
        Ticket(
            number,
            (),
            Work(tokens, tokens**2),
            at_s,
            deadline_s=None if patience_s is None else at_s + patience_s,
        )
        for number, (at_s, tokens, patience_s) in enumerate(sorted(drawn, key=lambda one: one[0]))
    ]
    fates = simulate(POLICIES[name](CPU), arriving, CPU)
    assert sorted(fate.ticket.id for fate in fates) == list(range(len(arriving)))


def test_one_ticket_takes_what_the_engine_takes():
    (fate,) = simulate(POLICIES["token budget"](CPU), [Ticket(0, (), Work(100, 10_000), 1.0)], CPU)
    assert fate.latency_ms == pytest.approx(4.0 + 6.0 + 0.4)


def test_a_fixed_window_is_waited_for_and_a_full_batch_is_not():
    alone = simulate(POLICIES["fixed window"](CPU), [Ticket(0, (), Work(10, 100), 1.0)], CPU)
    assert alone[0].latency_ms == pytest.approx(5.0 + CPU.batch_ms(Work(10, 100)))
    full = [Ticket(number, (), Work(10, 100), 1.0) for number in range(MAX_ITEMS)]
    fates = simulate(POLICIES["fixed window"](CPU), full, CPU)
    assert fates[0].latency_ms == pytest.approx(CPU.batch_ms(Work(320, 3200)))


def test_a_line_that_is_full_refuses():
    crowd = [Ticket(number, (), Work(10, 100), 1.0) for number in range(CAPACITY + 5)]
    fates = simulate(POLICIES["token budget"](CPU), crowd, CPU)
    assert sum(fate.outcome == "refused" for fate in fates) == 5


def test_sorted_by_length_puts_like_to_like():
    policy = POLICIES["sorted by length"](CPU)
    for number in range(64):
        policy.admit(Ticket(number, (), Work(10 if number % 2 else 500, 0), 1.0))
    sent = policy.next(1.0, 0)
    assert isinstance(sent, Sent)
    assert {ticket.work.tokens for ticket in sent.tickets} == {10}


@pytest.mark.parametrize("arrivals", [poisson, bursts])
@pytest.mark.parametrize("load", [1.0, 3.0])
def test_under_load_ours_answers_more_in_time_than_the_others(arrivals, load):
    good = {
        name: report(run(name, RAGGED, CPU, load, 20.0, arrivals=arrivals)[1]).goodput for name in POLICIES
    }
    assert all(good["vlmoe"] > 2 * goodput for name, goodput in good.items() if name != "vlmoe"), good


def test_overload_does_not_lower_our_goodput_nor_starve_anybody():
    peak = report(run("vlmoe", RAGGED, CPU, 1.0, 20.0)[1])
    overload = report(run("vlmoe", RAGGED, CPU, 3.0, 20.0)[1])
    assert overload.goodput >= 0.95 * peak.goodput
    assert overload.starved == 0
    assert overload.late < 0.05, "next to nothing is computed in vain"


def test_deadlines_do_not_make_batches_small_where_launching_is_dear():
    """A queue by deadlines that saves each of them with a batch of its own would collapse here."""
    ours = report(run("vlmoe", TEXTS, GPU, 1.5, 1.0)[1])
    peer = report(run("token budget", TEXTS, GPU, 1.5, 1.0)[1])
    assert ours.goodput > 0.95 * peer.goodput


def test_the_server_learns_an_engine_that_its_warm_up_was_wrong_about():
    slow = CostModel(*(3 * part for part in dataclasses.astuple(CPU)))
    capacity = 1e6 / slow.drain_ms(mean_work(RAGGED, 0), 100.0)
    arriving = tickets(poisson(2 * capacity, 20.0, 0), RAGGED, 0)
    fates = simulate(POLICIES["vlmoe"](CPU), arriving, slow)
    late = [fate for fate in fates if fate.ticket.arrival_s > 10.0 and fate.outcome == "answered"]
    assert sum(not fate.in_time for fate in late) < 0.05 * len(late)


class Mixture(CostModel):
    """A picture reads nearly all experts, and a second one the same: 60 ms alone, 70 together. A word reads few."""

    __slots__ = ()

    def batch_ms(self, work):
        return 2.0 + 48.0 * (1 - math.exp(-work.tokens / 100)) + 0.0173 * work.tokens


def test_a_server_that_has_seen_one_picture_at_a_time_learns_what_two_cost():
    """What texts cost says that each picture costs 60 ms; by that no two would ever share a batch."""
    engine = Mixture(0.0, 0.0, 0.0)
    shapes = [Work(length, length**2) for length in (589, 12, 577)]
    policy = Ours([Sample(work, engine.batch_ms(work)) for work in shapes])
    arriving = [Ticket(number, (), Work(577, 577**2), number / 50) for number in range(1500)]
    found = report(simulate(policy, arriving, engine, noise=0.05))
    assert found.throughput > 45, "one at a time it would be 17"


def test_a_report_counts_what_it_says():
    def fate(latency_s, outcome="answered", deadline_s=1.0):
        ticket = Ticket(0, (), Work(1, 1), 10.0, deadline_s=None if deadline_s is None else 10.0 + deadline_s)
        return Fate(ticket, outcome, 10.0 + latency_s)

    found = report(
        [fate(0.5), fate(2.0), fate(0.0, "refused"), fate(1.0, "dropped"), fate(20.0, deadline_s=None)]
    )
    assert found == Report(
        throughput=3 / 20,
        goodput=2 / 20,
        p50_ms=pytest.approx(2000.0),
        p99_ms=pytest.approx(20_000.0),
        missed=3 / 4,
        late=1 / 3,
        refused=1 / 5,
        starved=1,
    )
    assert "20000" in table([("load", "policy", found)])


def test_the_program_prints_a_line_a_policy():
    command = [sys.executable, "-m", "vlmoe_loadtests.simulator", "--seconds", "2", "--load", "0.5"]
    done = subprocess.run([*command, "--arrivals", "poisson"], capture_output=True, text=True, check=True)
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[1:]] == ["cpu ragged poisson 0.5 x"] * 4
