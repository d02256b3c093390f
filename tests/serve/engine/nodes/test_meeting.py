import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vlmoe_serve.engine.base import Rendezvous
from vlmoe_serve.engine.nodes.link import Link
from vlmoe_serve.engine.nodes.meeting import Meeting
from vlmoe_serve.engine.nodes.wire import GroupUp, NodeHello, RankHello, Refused, Welcome

from ...ports import free_port
from ...waiting import PATIENCE_S, wait_until

TERMS = {"the checkpoint": "m-1"}
HOW = "fp32 with cpu"


class Gathering:
    """A meeting of 2 nodes with 2 ranks each, whose `gather` runs in a thread."""

    def __init__(self, patience_s: float = PATIENCE_S, key_file: Path | None = None) -> None:
        self.port = free_port()
        self.lost: list[int] = []
        self._key = b"" if key_file is None else key_file.read_bytes()
        self._calls: list[Link] = []
        where = Rendezvous(2, 0, "127.0.0.1", self.port, key_file, patience_s)
        self.meeting = Meeting(where, 4, lambda: TERMS, HOW, self.lost.append)
        self.links: dict[int, Link] = {}
        self.address = self.error = ""
        self._thread = threading.Thread(target=self._gather)
        self._thread.start()

    def _gather(self) -> None:
        try:
            self.links, self.address = self.meeting.gather()
        except ValueError as error:
            self.error = str(error)

    def call(self, message: object) -> Link:
        link = Link.connect("127.0.0.1", self.port, self._key)
        self._calls.append(link)
        link.send(message)
        return link

    def node(self) -> tuple[Link, str]:
        link = self.call(NodeHello(1, TERMS))
        answer = link.receive(PATIENCE_S)
        assert isinstance(answer, Welcome), answer
        return link, answer.admission

    def end(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def close(self) -> None:
        for link in (*self._calls, *self.links.values()):
            link.close()
        wait_until(lambda: not self.meeting._nodes or bool(self.lost))


@pytest.fixture
def gather() -> Iterator[Callable[..., Gathering]]:
    made: list[Gathering] = []

    def begin(patience_s: float = PATIENCE_S, key_file: Path | None = None) -> Gathering:
        made.append(Gathering(patience_s, key_file))
        return made[-1]

    yield begin
    for gathering in made:
        gathering.close()


def test_nodes_and_then_their_ranks_are_taken_in(gather: Callable[..., Gathering]) -> None:
    gathering = gather()
    node, admission = gathering.node()
    for rank, shown in ((1, gathering.meeting.admission), (2, admission), (3, admission)):
        gathering.call(RankHello(rank, shown, HOW))
    gathering.end()
    assert sorted(gathering.links) == [1, 2, 3]
    assert gathering.address == "127.0.0.1"
    gathering.meeting.tell_up()
    assert node.receive(PATIENCE_S) == GroupUp()
    # the port is closed: who comes now has to wait for the next life of the group
    with pytest.raises(OSError, match="refused"):
        Link.connect("127.0.0.1", gathering.port, b"")
    assert not gathering.lost
    node.close()
    wait_until(lambda: gathering.lost == [1])


def test_other_terms_and_other_ranks_are_refused(gather: Callable[..., Gathering]) -> None:
    gathering = gather()
    stranger = gathering.call(NodeHello(1, {"the checkpoint": "m-2"}))
    assert stranger.receive(PATIENCE_S) == Refused(
        "node 1 was refused: the checkpoint is m-2 there and m-1 on node 0", final=True
    )
    beyond = gathering.call(NodeHello(2, TERMS)).receive(PATIENCE_S)
    assert beyond == Refused("node 2 was refused: --node-rank must be from 1 to 1 there", final=True)
    _, admission = gathering.node()
    twice = gathering.call(NodeHello(1, TERMS)).receive(PATIENCE_S)
    assert twice == Refused("there is a node 1 already", final=False)
    for rank, shown in ((2, "of an earlier life"), (1, admission), (4, admission), (0, admission), (-1, "")):
        answer = gathering.call(RankHello(rank, shown, HOW)).receive(PATIENCE_S)
        assert answer == Refused(f"rank {rank} is not expected", final=False)
    assert gathering.meeting._missing() == (
        f"all nodes are there, but rank 1, 2, 3 did not come to 127.0.0.1:{gathering.port}"
    )
    for rank, shown in ((1, gathering.meeting.admission), (2, admission), (3, admission)):
        gathering.call(RankHello(rank, shown, HOW))
    gathering.end()
    assert sorted(gathering.links) == [1, 2, 3]


def test_a_node_that_leaves_before_all_are_there_may_come_again(gather: Callable[..., Gathering]) -> None:
    gathering = gather()
    node, admission = gathering.node()
    lost = gathering.call(RankHello(2, admission, HOW))
    wait_until(lambda: 2 in gathering.meeting._links)
    node.close()
    with pytest.raises(OSError, match=r"closed|reset"):
        lost.receive(PATIENCE_S)
    wait_until(lambda: not gathering.meeting._nodes)
    _, again = gathering.node()
    assert again != admission
    for rank, shown in ((1, gathering.meeting.admission), (2, again), (3, again)):
        gathering.call(RankHello(rank, shown, HOW))
    gathering.end()
    assert sorted(gathering.links) == [1, 2, 3]


def test_a_node_that_never_comes_is_named(gather: Callable[..., Gathering]) -> None:
    gathering = gather(patience_s=0.1)
    gathering.end()
    assert gathering.error == f"node 1 of 2 did not come to 127.0.0.1:{gathering.port} within 0.1 s"


def test_ranks_that_compute_otherwise_are_named(gather: Callable[..., Gathering]) -> None:
    gathering = gather()
    _, admission = gathering.node()
    gathering.call(RankHello(1, gathering.meeting.admission, HOW))
    gathering.call(RankHello(2, admission, HOW))
    gathering.call(RankHello(3, admission, "bf16 with cpu_native"))
    gathering.end()
    assert gathering.error == (
        "rank 3 on node 1 computes in bf16 with cpu_native, rank 0 in fp32 with cpu: "
        "answers would depend on the rank"
    )


def test_callers_without_the_key_or_without_manners_keep_nobody_out(
    gather: Callable[..., Gathering], tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    gathering = gather(patience_s=PATIENCE_S, key_file=key)
    silent = [socket.create_connection(("127.0.0.1", gathering.port)) for _ in range(5)]
    with pytest.raises(OSError, match="another one there"):
        Link.connect("127.0.0.1", gathering.port, b"")
    silent[0].sendall(b"GET / HTTP/1.1\r\n\r\n" * 9)
    _, admission = gathering.node()
    for rank, shown in ((1, gathering.meeting.admission), (2, admission), (3, admission)):
        gathering.call(RankHello(rank, shown, HOW))
    gathering.end()
    assert sorted(gathering.links) == [1, 2, 3]
    for sock in silent:
        sock.close()


def test_a_port_that_is_taken_is_refused_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=f"cannot listen on 127.0.0.1:{port} for the other nodes"
        ) as error:
            Meeting(Rendezvous(2, 0, "127.0.0.1", port), 2, lambda: TERMS, HOW, print)
    assert "\n" not in str(error.value)


def test_a_name_that_is_not_this_host_listens_everywhere() -> None:
    port = free_port()
    meeting = Meeting(Rendezvous(2, 0, "192.0.2.1", port, patience_s=0.01), 2, lambda: TERMS, HOW, print)
    socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(ValueError, match="node 1 of 2 did not come"):
        meeting.gather()
