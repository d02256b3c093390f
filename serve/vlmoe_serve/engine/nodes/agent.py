"""A node that has no doors: join the group at node 0, run this node's ranks, and join anew when the group has ended.

identify the checkpoint -> call node 0 -> NodeHello -> Welcome -> ranks ... -> (the group has ended) -> again
-> Refused: the end, with its reason
"""

import logging
import threading
from dataclasses import dataclass

from vlmoe_model.checkpoint.directory import open_directory, resolve
from vlmoe_model.checkpoint.fingerprint import model_id
from vlmoe_serve.engine.base import EngineOptions, Rendezvous
from vlmoe_serve.engine.nodes.link import Link, NotAdmitted, read_key
from vlmoe_serve.engine.nodes.spawn import LocalRanks
from vlmoe_serve.engine.nodes.terms import terms_of
from vlmoe_serve.engine.nodes.wire import GroupUp, NodeHello, Refused, Welcome

_log = logging.getLogger(__name__)
_CALL_AGAIN_S = 0.5
_MAX_PAUSE_S = 5.0
_REPORT_EACH = 60
# node 0 may have to read all its weights before it knows what they are
_WELCOME_S = 600.0


class NodeRefused(RuntimeError):
    """Node 0 does not take this node in, and will not; one line."""


@dataclass(frozen=True, slots=True)
class AgentState:
    """ready: every rank of the group has loaded. text: what the node does, for people."""

    ready: bool
    text: str


class Agent:
    """Call `run` in a thread that lives as long as the node."""

    def __init__(self, options: EngineOptions, where: Rendezvous) -> None:
        self.state = AgentState(False, "starting")
        self._options = options
        self._where = where
        self._key = read_key(where.key_file)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._link: Link | None = None

    @property
    def connected(self) -> bool:
        """Whether node 0 has taken this node in, or is about to."""
        return self._link is not None

    def run(self) -> None:
        """Until `stop`.

        Raises:
            NodeRefused: node 0 says why. ValueError: a bad checkpoint.
        """
        pause_s = _CALL_AGAIN_S
        while not self._stopped.is_set():
            was_up = self._live()
            pause_s = _CALL_AGAIN_S if was_up else min(2 * pause_s, _MAX_PAUSE_S)
            self._stopped.wait(pause_s)

    def stop(self) -> None:
        """End the ranks, and let `run` return."""
        self._stopped.set()
        with self._lock:
            if self._link is not None:
                self._link.close()

    def _live(self) -> bool:
        """Take part once; whether the group came up."""
        self._say("identifying the checkpoint")
        terms = terms_of(self._options, self._where, model_id(open_directory(resolve(self._options.path))))
        link = self._call()
        if link is None:
            return False
        try:
            link.send(NodeHello(self._where.node, terms))
            self._say("waiting to be taken in by node 0")
            answer = link.receive(_WELCOME_S)
            if isinstance(answer, Refused):
                if answer.final:
                    raise NodeRefused(answer.reason)
                _log.warning("%s; trying again", answer.reason)
                return False
            assert isinstance(answer, Welcome), answer
            return self._take_part(link, answer.admission)
        except OSError as error:
            _log.warning("lost node 0: %s", error)
            return False
        finally:
            with self._lock:
                self._link = None
            link.close()

    def _call(self) -> Link | None:
        address = f"{self._where.host}:{self._where.port}"
        self._say(f"waiting for node 0 at {address}")
        num_calls = 0
        while not self._stopped.is_set():
            try:
                link = Link.connect(self._where.host, self._where.port, self._key)
            except NotAdmitted as error:
                raise NodeRefused(str(error)) from None
            except OSError as error:
                if num_calls % _REPORT_EACH == 0:
                    _log.info("node 0 is not at %s yet: %s", address, error)
                num_calls += 1
                self._stopped.wait(_CALL_AGAIN_S)
                continue
            with self._lock:
                if not self._stopped.is_set():
                    self._link = link
                    return link
            link.close()
        return None

    def _take_part(self, link: Link, admission: str) -> bool:
        def on_end(rank: int, code: int) -> None:
            _log.error("rank %d ended with code %d: all ranks start again", rank, code)
            link.close()

        per_node = self._options.local_ranks
        first = self._where.node * per_node
        self._say("waiting for all ranks to load")
        ranks = LocalRanks(self._options, range(first, first + per_node), admission, on_end)
        was_up = False
        try:
            while True:
                assert isinstance(link.receive(), GroupUp)
                was_up = True
                self.state = AgentState(True, "the group is up")
                _log.info("the group is up: this node runs ranks %d to %d", first, first + per_node - 1)
        except OSError:
            if not self._stopped.is_set():
                _log.warning("the group has ended")
            return was_up
        finally:
            self._say("the group has ended")
            ranks.kill()

    def _say(self, text: str) -> None:
        self.state = AgentState(False, text)
