"""Node 0's side of the rendezvous: take in the other nodes, then their ranks, and notice when one is lost.

    NodeHello -> Welcome | Refused      an agent; its connection stays open for as long as the node takes part
    RankHello -> (Begin) | Refused      a rank of a node that was taken in

Until all are there whoever is lost is waited for anew; afterwards a loss ends the group.
"""

import contextlib
import ipaddress
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping

from vlmoe_serve.engine.base import Rendezvous
from vlmoe_serve.engine.nodes.link import Link, read_key
from vlmoe_serve.engine.nodes.terms import difference
from vlmoe_serve.engine.nodes.wire import GroupUp, NodeHello, RankHello, Refused, Welcome

_log = logging.getLogger(__name__)
_HELLO_S = 10.0
_MAX_HELLO_BYTES = 1 << 16
# callers whose first message is awaited
_MAX_CALLERS = 64
_REPORT_S = 10.0


class Meeting:
    """The open port. `gather` waits for everybody and closes it.

    Args:
        where: the rendezvous.
        ranks: of all nodes together.
        terms: what this node's terms are; it may have to compute them, and is called in another thread.
        how: the dtype and the kernels that rank 0 computes with.
        on_loss: told in another thread when a node is lost after all were there.

    Raises:
        ValueError: the port cannot be listened on, or the key cannot be read.
    """

    def __init__(
        self,
        where: Rendezvous,
        ranks: int,
        terms: Callable[[], Mapping[str, str]],
        how: str,
        on_loss: Callable[[int], None],
    ) -> None:
        self._where = where
        self._per_node = ranks // where.num_nodes
        self._ranks = range(1, ranks)
        self._terms = terms
        self._how = how
        self._on_loss = on_loss
        self._key = read_key(where.key_file)
        self._changed = threading.Condition()
        self._complete = False
        # shown by this node's own ranks
        self.admission = secrets.token_hex(8)
        self._nodes: dict[int, tuple[str, Link]] = {}
        self._links: dict[int, Link] = {}
        self._hows: dict[int, str] = {}
        self._callers = threading.BoundedSemaphore(_MAX_CALLERS)
        self._listener = _listen(where)
        if not self._key and not ipaddress.ip_address(self._listener.getsockname()[0]).is_loopback:
            _log.warning(
                "whoever reaches port %d may join the group: give --rendezvous-key-file on all nodes",
                where.port,
            )

    def gather(self) -> tuple[dict[int, Link], str]:
        """A link to every other rank, and this host's address as the other nodes see it.

        Raises:
            ValueError: somebody did not come in time, or computes otherwise than rank 0; says who.
        """
        threading.Thread(target=self._accept, daemon=True).start()
        end_s = time.monotonic() + self._where.patience_s
        try:
            with self._changed:
                while len(self._links) < len(self._ranks):
                    left_s = end_s - time.monotonic()
                    if left_s <= 0:
                        raise ValueError(f"{self._missing()} within {self._where.patience_s:g} s")
                    if not self._changed.wait(min(left_s, _REPORT_S)):
                        _log.info("%s yet", self._missing())
                for rank, how in self._hows.items():
                    if how != self._how:
                        raise ValueError(
                            f"rank {rank} on node {rank // self._per_node} computes in {how}, rank 0 in {self._how}: "
                            "answers would depend on the rank"
                        )
                self._complete = True
                _, link = self._nodes[1]
                return dict(self._links), link.address
        except ValueError:
            for link in (*self._links.values(), *(link for _, link in list(self._nodes.values()))):
                link.close()
            raise
        finally:
            _close(self._listener)

    def tell_up(self) -> None:
        """Let the agents know that the group serves."""
        for _, link in self._nodes.values():
            link.send(GroupUp())

    def _missing(self) -> str:
        where = f"{self._where.host}:{self._where.port}"
        nodes = [node for node in range(1, self._where.num_nodes) if node not in self._nodes]
        if nodes:
            return f"node {', '.join(map(str, nodes))} of {self._where.num_nodes} did not come to {where}"
        ranks = [rank for rank in self._ranks if rank not in self._links]
        return f"all nodes are there, but rank {', '.join(map(str, ranks))} did not come to {where}"

    def _accept(self) -> None:
        while True:
            self._callers.acquire()
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            # in a thread of its own: one who says nothing must not keep the others out
            threading.Thread(target=self._admit, args=(sock,), daemon=True).start()

    def _admit(self, sock: socket.socket) -> None:
        try:
            link = Link.accept(sock, self._key)
            hello = link.receive(_HELLO_S, _MAX_HELLO_BYTES)
        except OSError as error:
            _log.warning("refused a caller at the rendezvous: %s", error)
            _close(sock)
            return
        finally:
            self._callers.release()
        if isinstance(hello, NodeHello):
            self._admit_node(hello, link)
        elif isinstance(hello, RankHello):
            self._admit_rank(hello, link)
        else:
            link.close()

    def _admit_node(self, hello: NodeHello, link: Link) -> None:
        differs = difference(hello.terms, self._terms())
        if differs is None and hello.node not in range(1, self._where.num_nodes):
            differs = f"--node-rank must be from 1 to {self._where.num_nodes - 1} there"
        admission = secrets.token_hex(8)
        refused = None
        with self._changed:
            if differs is not None:
                refused = Refused(f"node {hello.node} was refused: {differs}", final=True)
            elif self._complete or hello.node in self._nodes:
                refused = Refused(f"there is a node {hello.node} already", final=False)
            else:
                self._nodes[hello.node] = admission, link
                self._changed.notify_all()
        if refused is not None:
            _log.error("%s (from %s)", refused.reason, link.peer)
            _tell(link, refused)
            link.close()
            return
        _log.info("node %d came from %s", hello.node, link.peer)
        _tell(link, Welcome(admission))
        self._watch(hello.node, link)

    def _admit_rank(self, hello: RankHello, link: Link) -> None:
        with self._changed:
            node = hello.rank // self._per_node
            admission = self.admission if node == 0 else self._nodes[node][0] if node in self._nodes else None
            if admission == hello.admission and hello.rank in self._ranks and hello.rank not in self._links:
                self._links[hello.rank] = link
                self._hows[hello.rank] = hello.how
                self._changed.notify_all()
                return
        _tell(link, Refused(f"rank {hello.rank} is not expected", final=False))
        link.close()

    def _watch(self, node: int, link: Link) -> None:
        """Until it is lost. Its agent says nothing; what it has to say is its end."""
        try:
            while True:
                link.receive()
        except OSError:
            pass
        with self._changed:
            if self._complete:
                link.close()
                self._on_loss(node)
                return
            del self._nodes[node]
            for rank in range(node * self._per_node, (node + 1) * self._per_node):
                lost = self._links.pop(rank, None)
                if lost is not None:
                    lost.close()
        link.close()
        _log.warning("node %d left before all were there", node)


def _listen(where: Rendezvous) -> socket.socket:
    """On the address that the host has by this name; on all of them where that is none of ours, as behind a NAT."""
    try:
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)[0]
        return _bound(found[0], found[4])
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if "in use" not in reason:
        _log.warning("cannot listen on %s (%s): listening on all addresses", where.host, reason)
        try:
            return _bound(socket.AF_INET, ("", where.port))
        except OSError as error:
            reason = error.strerror or str(error)
    raise ValueError(f"cannot listen on {where.host}:{where.port} for the other nodes: {reason}")


def _bound(family: int, address: object) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)  # type: ignore[arg-type]  # as getaddrinfo gave it
        sock.listen(_MAX_CALLERS)
    except BaseException:
        sock.close()
        raise
    return sock


def _tell(link: Link, message: object) -> None:
    with contextlib.suppress(OSError):
        link.send(message)


def _close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
