"""The agent alone, against a node 0 that is played by the test."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlmoe_serve.engine.base import EngineOptions, Rendezvous
from vlmoe_serve.engine.nodes.agent import Agent, NodeRefused
from vlmoe_serve.engine.nodes.link import Link
from vlmoe_serve.engine.nodes.wire import NodeHello, Refused

from ...ports import free_port
from ...waiting import PATIENCE_S, wait_until


class Running:
    """An agent in its thread, and what it ended with."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.agent.run()
        except (NodeRefused, ValueError) as error:
            self.error = error

    def end(self) -> None:
        self.agent.stop()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


@pytest.fixture
def node_0() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        yield listener


def agent_for(port: int, path: Path) -> Agent:
    where = Rendezvous(2, 1, "127.0.0.1", port)
    return Agent(EngineOptions(path, device="cpu", dtype="fp32", ranks=2, rendezvous=where), where)


def test_it_waits_for_node_0_and_can_be_stopped(checkpoint: Path) -> None:
    port = free_port()
    running = Running(agent_for(port, checkpoint))
    wait_until(lambda: running.agent.state.text == f"waiting for node 0 at 127.0.0.1:{port}")
    assert not running.agent.state.ready
    assert not running.agent.connected
    running.end()
    assert running.error is None


def test_it_comes_again_when_asked_to_and_ends_when_refused(node_0: socket.socket, checkpoint: Path) -> None:
    running = Running(agent_for(node_0.getsockname()[1], checkpoint))
    for answer in (None, Refused("there is a node 1 already", final=False), Refused("no", final=True)):
        link = Link.accept(node_0.accept()[0], b"")
        hello = link.receive(PATIENCE_S)
        assert isinstance(hello, NodeHello)
        assert hello.node == 1
        assert hello.terms["the checkpoint"].startswith("m-")
        if answer is not None:
            link.send(answer)
        link.close()
    running.thread.join(PATIENCE_S)
    assert isinstance(running.error, NodeRefused)
    assert str(running.error) == "no"


def test_a_checkpoint_that_cannot_be_read_is_said(node_0: socket.socket, tmp_path: Path) -> None:
    running = Running(agent_for(node_0.getsockname()[1], tmp_path))
    running.thread.join(PATIENCE_S)
    assert isinstance(running.error, ValueError)
    assert "config.json" in str(running.error)
