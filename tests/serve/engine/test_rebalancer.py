"""Orders to all ranks, from counts to moved experts; planned here instead of in another process."""

import dataclasses
from concurrent.futures import Future

import numpy as np

from vlmoe_serve.engine.orders import LayerMove, MoveState, Orders
from vlmoe_serve.engine.rebalancer import Rebalancer
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.placement import Placement, place
from vlmoe_serve.placement.rebalancing import Question, RebalanceOptions, Revision, revise

COSTS = Costs(token_us=1.0, expert_us=0.0, near_us=0.01, expert_bytes=1000, move_bytes_per_us=1000.0)
IDLE, READY = MoveState(), MoveState(is_ready=True)


class PlansHere:
    """Answers at once, or like a process that is gone."""

    def __init__(self, *, is_gone: bool = False, planned_s: float = 0.0) -> None:
        self.questions: list[Question] = []
        self._is_gone = is_gone
        self._planned_s = planned_s

    def ask(self, question: Question) -> "Future[Revision]":
        self.questions.append(question)
        answer: Future[Revision] = Future()
        if self._is_gone:
            answer.set_exception(EOFError())
        else:
            answer.set_result(dataclasses.replace(revise(question), planned_s=self._planned_s))
        return answer


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def even() -> Placement:
    return place((0, 2), (4, 2), [[[0, 1, 4], [2, 3, 5]]] * 2, 4)


def made(plans: PlansHere, clock: Clock, *, at_once: bool = False) -> Rebalancer:
    options = RebalanceOptions(min_steps=16, interval_s=5.0, at_once=at_once)
    return Rebalancer(even(), COSTS, options, plans, toll=0.5, clock=clock)


def run_steps(rebalancer: Rebalancer, hot: int, num: int = 16) -> None:
    rng = np.random.default_rng(hot)
    mean = np.full((2, 6, 2), 5.0)
    mean[:, hot] = 200
    for _ in range(num):
        rebalancer.saw(rng.poisson(mean))


def test_layers_move_one_after_the_other_when_all_ranks_are_ready() -> None:
    plans, clock = PlansHere(), Clock()
    rebalancer = made(plans, clock)
    run_steps(rebalancer, hot=1)
    assert rebalancer.orders([IDLE, IDLE]) == Orders(), "too early"
    clock.now_s = 5.0
    assert rebalancer.orders([IDLE, IDLE]) == Orders(), "asked"
    first = rebalancer.orders([IDLE, IDLE])
    assert isinstance(first.prepare, LayerMove)
    assert (first.switch, first.prepare.block) == (False, 0)
    assert all(1 in image for image, _ in first.prepare.held)
    assert rebalancer.orders([READY, IDLE]) == Orders(), "one rank is still at it"
    second = rebalancer.orders([READY, READY])
    assert second.switch
    assert second.prepare is not None
    assert second.prepare.block == 2
    assert rebalancer.placement.hosts_LXG[0, 1].all()
    assert not rebalancer.placement.hosts_LXG[1, 1].all()
    assert rebalancer.orders([READY, READY]) == Orders(switch=True)
    assert rebalancer.placement.hosts_LXG[:, 1].all()
    report = rebalancer.take()
    assert (report.num_plans, report.refused) == (1, {})
    assert report.moved_bytes == 1000 * report.num_moved >= 2000
    assert rebalancer.take().num_moved == 0


def test_what_gains_nothing_is_refused_and_asked_for_later() -> None:
    plans, clock = PlansHere(), Clock()
    rebalancer = made(plans, clock)
    run_steps(rebalancer, hot=1)
    clock.now_s = 5.0
    for states in ([IDLE] * 2, [IDLE] * 2, [READY] * 2, [READY] * 2):
        rebalancer.orders(states)
    rebalancer.take()
    run_steps(rebalancer, hot=1, num=40)
    clock.now_s = 10.0
    assert rebalancer.orders([IDLE, IDLE]) == rebalancer.orders([IDLE, IDLE]) == Orders()
    assert rebalancer.take().refused == {"gain": 1}
    run_steps(rebalancer, hot=1)
    clock.now_s = 19.0
    rebalancer.orders([IDLE, IDLE])
    assert len(plans.questions) == 2
    clock.now_s = 20.0
    rebalancer.orders([IDLE, IDLE])
    assert len(plans.questions) == 3


def test_what_planning_took_from_the_ranks_makes_plans_rarer() -> None:
    plans, clock = PlansHere(planned_s=0.4), Clock()
    rebalancer = made(plans, clock)
    run_steps(rebalancer, hot=1)
    clock.now_s = 5.0
    for states in ([IDLE] * 2, [IDLE] * 2, [READY] * 2, [READY] * 2):
        rebalancer.orders(states)
    # half of 0.4 s were lost: a hundredth of 20 s
    for now_s, num_plans in ((24.9, 1), (25.0, 2)):
        run_steps(rebalancer, hot=2)
        clock.now_s = now_s
        rebalancer.orders([IDLE, IDLE])
        assert len(plans.questions) == num_plans


def test_weights_that_cannot_be_read_end_the_move() -> None:
    plans, clock = PlansHere(), Clock()
    rebalancer = made(plans, clock)
    run_steps(rebalancer, hot=1)
    clock.now_s = 5.0
    rebalancer.orders([IDLE, IDLE])
    assert rebalancer.orders([IDLE, IDLE]).prepare is not None
    assert rebalancer.orders([READY, MoveState(failure="gone")]) == Orders()
    assert rebalancer.orders([READY, READY]) == Orders()
    assert rebalancer.take().refused == {"failed": 1}
    assert not rebalancer.placement.hosts_LXG[:, 1].all()


def test_without_a_process_that_plans_experts_stay() -> None:
    plans, clock = PlansHere(is_gone=True), Clock()
    rebalancer = made(plans, clock)
    for now_s in (5.0, 500.0, 5000.0):
        run_steps(rebalancer, hot=1)
        clock.now_s = now_s
        assert rebalancer.orders([IDLE, IDLE]) == rebalancer.orders([IDLE, IDLE]) == Orders()
    assert len(plans.questions) == 1
    assert rebalancer.take().refused == {"failed": 1}


def test_all_at_once_is_one_order() -> None:
    plans, clock = PlansHere(), Clock()
    rebalancer = made(plans, clock, at_once=True)
    run_steps(rebalancer, hot=1)
    clock.now_s = 5.0
    rebalancer.orders([IDLE, IDLE])
    orders = rebalancer.orders([IDLE, IDLE])
    assert [move.block for move in orders.at_once] == [0, 2]
    assert rebalancer.placement.hosts_LXG[:, 1].all()
    assert rebalancer.orders([IDLE, IDLE]) == Orders()
