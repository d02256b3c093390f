"""The few values that gloo's ranks exchange to find each other, over links instead of a server of torch's own.

    rank 0: Values <- serve_values(link of each other rank);  HubStore
    rank n: LinkStore -> Put, Ask -> link

torch's TCPStore would be one more port on the network, which takes values from whoever reaches it.
"""

import threading
from datetime import timedelta

from torch._C._distributed_c10d import Store

from vlmoe_serve.engine.nodes.link import Link
from vlmoe_serve.engine.nodes.wire import Ask, Joined, Put, Value

_PATIENCE_S = 120.0


class Values:
    """What all ranks have put, in rank 0."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._changed = threading.Condition()

    def put(self, key: str, value: bytes) -> None:
        """Remember it."""
        with self._changed:
            self._values[key] = value
            self._changed.notify_all()

    def get(self, key: str) -> bytes:
        """It, once it is there.

        Raises:
            TimeoutError: nobody puts it.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._values, _PATIENCE_S):
                raise TimeoutError(f"no rank has said {key!r}")
            return self._values[key]

    def serve(self, link: Link) -> None:
        """Answer one rank until it has joined, or is gone."""
        try:
            while not isinstance(message := link.receive(), Joined):
                if isinstance(message, Put):
                    self.put(message.key, message.value)
                else:
                    assert isinstance(message, Ask), message
                    link.send(Value(self.get(message.key)))
        except OSError:
            # whoever reads the link next hears of it too
            return


class HubStore(Store):
    """Rank 0's store."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self._values = values

    def set(self, key: str, value: bytes | str) -> None:
        """See `Values.put`."""
        self._values.put(key, value.encode() if isinstance(value, str) else bytes(value))

    def get(self, key: str) -> bytes:
        """See `Values.get`."""
        return self._values.get(key)

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Until all are there."""
        for key in keys:
            self._values.get(key)


class LinkStore(Store):
    """Any other rank's store."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def set(self, key: str, value: bytes | str) -> None:
        """Put it at rank 0."""
        self._link.send(Put(key, value.encode() if isinstance(value, str) else bytes(value)))

    def get(self, key: str) -> bytes:
        """Ask rank 0 for it."""
        self._link.send(Ask(key))
        answer = self._link.receive()
        assert isinstance(answer, Value), answer
        return answer.value

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Until all are there."""
        for key in keys:
            self.get(key)
