from typing import Any

import pytest

from vlmoe_serve.cost import Estimator, Sample
from vlmoe_serve.dispatch import Dispatcher
from vlmoe_serve.engine.supervisor import Supervisor
from vlmoe_serve.observer import SilentObserver
from vlmoe_serve.ticket import Work


def dispatcher(toy: Any, fixed_ms: float, token_ms: float) -> Dispatcher:
    made = Dispatcher(Supervisor(toy.factory, toy.options), 100.0, 5000, SilentObserver())
    works = [Work(count * length, count * length**2) for count in (1, 4, 16) for length in (10, 40, 90)]
    made.estimator = Estimator([Sample(work, fixed_ms + token_ms * work.tokens) for work in works * 4])
    return made


@pytest.mark.parametrize(
    ("fixed_ms", "token_ms", "fits"),
    [
        # 100 ms at 0.1 ms a token.
        (1.0, 0.1, 990),
        # The fixed cost alone would be a third of 100 ms: batches are longer here.
        (30.0, 0.1, 3000),
        # On a fast device memory is the limit.
        (1.0, 0.001, 5000),
    ],
)
def test_a_batch_is_worth_its_fixed_cost(toy: Any, fixed_ms: float, token_ms: float, fits: int) -> None:
    budget = dispatcher(toy, fixed_ms, token_ms).budget
    assert budget.allows(Work(int(0.85 * fits), 0))
    assert not budget.allows(Work(int(1.6 * fits), 0))


def test_an_empty_queue_means_no_wait(toy: Any) -> None:
    assert dispatcher(toy, 5.0, 0.1).wait_ms("batch") == 0
