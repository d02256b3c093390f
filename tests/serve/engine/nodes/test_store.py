import socket
import threading

import pytest

from vlmoe_serve.engine.nodes import store as store_module
from vlmoe_serve.engine.nodes.link import Link
from vlmoe_serve.engine.nodes.store import HubStore, LinkStore, Values
from vlmoe_serve.engine.nodes.wire import Joined

from ...waiting import PATIENCE_S


def test_what_any_rank_puts_all_can_get_whoever_asks_first() -> None:
    values = Values()
    ends = [socket.socketpair() for _ in range(2)]
    theirs = [Link(end) for end, _ in ends]
    serving = [threading.Thread(target=values.serve, args=(Link(end),)) for _, end in ends]
    for thread in serving:
        thread.start()
    hub, first, second = HubStore(values), LinkStore(theirs[0]), LinkStore(theirs[1])
    early: list[bytes] = []
    asking = threading.Thread(target=lambda: early.append(first.get("0/1")))
    asking.start()
    second.set("0/1", b"\0one")
    asking.join(PATIENCE_S)
    assert early == [b"\0one"]
    hub.set("0/0", "zero")
    first.wait(["0/0", "0/1"])
    hub.wait(["0/1"])
    assert (hub.get("0/1"), second.get("0/0")) == (b"\0one", b"zero")
    theirs[0].send(Joined())
    # the other one's end is the end of it, too
    theirs[1].close()
    for thread in serving:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    theirs[0].close()
    for _, end in ends:
        end.close()


def test_a_value_that_nobody_puts_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_PATIENCE_S", 0.01)
    with pytest.raises(TimeoutError, match="no rank has said '0/7'"):
        Values().get("0/7")
