import sys
import threading
import types
from collections.abc import Iterator

import pytest

import vlmoe_serve.lobby
from vlmoe_serve.lobby import Lobby


def test_a_seat_counts_until_it_is_left() -> None:
    lobby = Lobby()
    lobby.observe(3.0)
    with lobby.enter("normal", None), lobby.enter("normal", None) as second:
        assert lobby.ahead_ms("normal", None) == 6.0
        second.leave()
        second.leave()
        assert lobby.ahead_ms("normal", None) == 3.0
    assert len(lobby) == 0


def test_a_seat_whose_call_is_gone_is_given_up() -> None:
    lobby = Lobby()
    seats = [lobby.enter("normal", None)]
    assert len(lobby) == 1
    seats.clear()
    assert len(lobby) == 0


def test_whose_body_does_not_come_is_not_waited_for(monkeypatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(vlmoe_serve.lobby, "time", types.SimpleNamespace(monotonic=lambda: now_s))
    lobby = Lobby()
    lobby.observe(1.0)
    slow, read = lobby.enter("normal", None), lobby.enter("normal", None)
    assert lobby.ahead_ms("normal", None) == 2.0
    with read:
        now_s += 5.0
        assert lobby.ahead_ms("normal", None) == 1.0
        with slow:
            # its body has come at last
            assert lobby.ahead_ms("normal", None) == 2.0
    with slow:
        assert lobby.ahead_ms("normal", None) == 0.0


def test_a_seat_is_given_up_when_decoding_fails() -> None:
    lobby = Lobby()
    with pytest.raises(ValueError, match="broken"), lobby.enter("normal", None):
        raise ValueError("broken")
    assert len(lobby) == 0


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_seats_may_be_given_up_in_another_thread_while_they_are_counted() -> None:
    lobby = Lobby()
    lobby.observe(1.0)
    seats = [lobby.enter("normal", None) for _ in range(20_000)]
    collector = threading.Thread(target=lambda: [seats.pop() for _ in range(20_000)])
    collector.start()
    while collector.is_alive():
        assert lobby.ahead_ms("normal", None) <= 20_000
    collector.join()
    assert lobby.ahead_ms("normal", None) == 0


@pytest.mark.parametrize(
    ("priority", "deadline_s", "ahead"),
    [
        ("interactive", None, 1),
        ("normal", 4.0, 1),
        ("normal", 6.0, 2),
        ("normal", None, 3),
        ("batch", 1.0, 3),
    ],
)
def test_only_those_who_go_first_are_ahead(priority: str, deadline_s: float | None, ahead: int) -> None:
    lobby = Lobby()
    lobby.observe(1.0)
    seats = [
        lobby.enter("interactive", 9.0),
        lobby.enter("normal", 5.0),
        lobby.enter("normal", None),
        lobby.enter("batch", 3.0),
    ]
    assert lobby.ahead_ms(priority, deadline_s) == ahead
    del seats


def test_the_mean_is_plain_at_first_and_follows_later() -> None:
    lobby = Lobby()
    for share_ms in (2.0, 4.0, 6.0):
        lobby.observe(share_ms)
    assert lobby.mean_ms == pytest.approx(4.0)
    for _ in range(200):
        lobby.observe(10.0)
    assert lobby.mean_ms == pytest.approx(10.0, rel=0.01)
