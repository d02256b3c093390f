import pickle
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vlmoe_serve.engine.nodes import link as link_module
from vlmoe_serve.engine.nodes import wire
from vlmoe_serve.engine.nodes.link import Closed, Link, NotAdmitted, read_key
from vlmoe_serve.engine.nodes.wire import Put, WireError

from ...waiting import PATIENCE_S

KEY = b"sixteen bytes ok"


def meet(caller: Callable[[int], object], key: bytes = KEY) -> tuple[object, Link | Exception]:
    """What the caller, in a thread, and what the called side made of each other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made: list[object] = []

        def call() -> None:
            try:
                made.append(caller(listener.getsockname()[1]))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        sock, _ = listener.accept()
        called: Link | Exception
        try:
            called = Link.accept(sock, key)
        except OSError as error:
            called = error
            sock.close()
        thread.join()
    return made[0], called


def pair() -> tuple[Link, Link]:
    caller, called = meet(lambda port: Link.connect("127.0.0.1", port, KEY))
    assert isinstance(caller, Link)
    assert isinstance(called, Link)
    return caller, called


def test_messages_go_both_ways_and_an_end_is_heard() -> None:
    caller, called = pair()
    large = Put("large", bytes(3_000_000))
    sender = threading.Thread(target=caller.send, args=(large,))
    sender.start()
    assert called.receive() == large
    sender.join()
    called.send(Put("back", b"1"))
    assert caller.receive(PATIENCE_S) == Put("back", b"1")
    assert (caller.address, called.peer) == ("127.0.0.1", "127.0.0.1")
    with pytest.raises(TimeoutError):
        caller.receive(0.01)
    called.close()
    with pytest.raises(Closed):
        caller.receive()
    caller.close()


def test_closing_wakes_the_one_who_waits() -> None:
    caller, called = pair()
    woken: list[OSError] = []

    def wait() -> None:
        try:
            caller.receive()
        except OSError as error:
            woken.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    caller.close()
    thread.join(PATIENCE_S)
    assert len(woken) == 1
    called.close()


@pytest.mark.parametrize("theirs", [b"", b"another key of 16", KEY + b"!"])
def test_who_does_not_know_the_key_is_not_admitted(theirs: bytes) -> None:
    caller, called = meet(lambda port: Link.connect("127.0.0.1", port, theirs))
    assert isinstance(caller, NotAdmitted)
    assert isinstance(called, NotAdmitted)


def test_a_server_that_does_not_know_the_key_gets_nothing() -> None:
    """It may answer anything to our proof: without the key it cannot make the one that we ask for."""

    def impostor(port: int) -> object:
        return Link.connect("127.0.0.1", port, KEY)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        made: list[object] = []

        def call() -> None:
            try:
                made.append(impostor(listener.getsockname()[1]))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        sock, _ = listener.accept()
        with sock:
            sock.sendall(link_module._MAGIC + bytes(32))
            proof = b""
            while len(proof) < len(link_module._MAGIC) + 64:
                proof += sock.recv(1000)
            # its own proof, sent back
            sock.sendall(proof[-32:])
            thread.join()
    assert isinstance(made[0], NotAdmitted)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n" * 8, pickle.dumps("x" * 200), bytes(500)])
def test_who_speaks_something_else_is_refused(said: bytes) -> None:
    def call(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(said)
            while sock.recv(1000):
                pass

    _, called = meet(call)
    assert isinstance(called, WireError)


def test_a_silent_caller_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_HANDSHAKE_S", 0.05)

    def call(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            while sock.recv(1000):
                pass

    _, called = meet(call)
    assert isinstance(called, TimeoutError)


def test_a_message_that_is_too_long_is_refused_before_it_is_read() -> None:
    caller, called = pair()
    caller.send(Put("k", bytes(2000)))
    with pytest.raises(WireError, match="bytes is none of ours"):
        called.receive(PATIENCE_S, max_bytes=1000)
    caller._sock.sendall(wire.LENGTHS.pack(1, 1 << 60))
    caller.close()
    called.close()


def test_a_key_comes_from_a_file_and_is_long_enough(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(KEY + b"\n")
    assert read_key(file) == KEY
    assert read_key(None) == b""
    file.write_bytes(b"short\n")
    with pytest.raises(ValueError, match="5 bytes, at least 16"):
        read_key(file)
    with pytest.raises(ValueError, match="cannot be read"):
        read_key(tmp_path / "none")
