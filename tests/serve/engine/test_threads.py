import pytest
import torch

from vlmoe_serve.engine import threads
from vlmoe_serve.engine.threads import leave_a_core, lent_threads


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def forward(monkeypatch):
    """forward(seconds): a forward that takes as long as it is said to, by the number of threads; and its runs."""
    now_s = 0.0
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now_s)

    def make(seconds_by_threads):
        runs = []

        def run():
            nonlocal now_s
            runs.append(torch.get_num_threads())
            now_s += seconds_by_threads[torch.get_num_threads()]

        return run, runs

    return make


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({3: 0.01, 4: 0.05}, 3),
        ({3: 0.05, 4: 0.05}, 3),
        ({3: 0.1, 4: 0.02}, 4),
    ],
)
def test_the_last_core_must_be_worth_it(forward, seconds, best):
    torch.set_num_threads(4)
    run, runs = forward(seconds)
    assert leave_a_core(run, 4) == torch.get_num_threads() == best
    assert set(runs) == {3, 4}


def test_one_core_is_not_left(forward):
    run, runs = forward({})
    assert leave_a_core(run, 1) == 1
    assert not runs


def test_a_long_batch_is_not_run_again_and_again(forward):
    torch.set_num_threads(2)
    run, runs = forward({1: 0.5, 2: 0.31})
    assert leave_a_core(run, 2) == 2
    assert len(runs) == 3


def test_lent_threads_are_given_back() -> None:
    torch.set_num_threads(1)
    with lent_threads(3):
        assert torch.get_num_threads() == 3
        with lent_threads(0):
            assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 1
    with pytest.raises(RuntimeError, match="lost"), lent_threads(2):
        raise RuntimeError("lost")
    assert torch.get_num_threads() == 1
