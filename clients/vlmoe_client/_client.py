"""The blocking client: what it can do (`_client_tasks`, `_client_store`) and how that travels (`_transport`)."""

from __future__ import annotations

from ._client_store import StoreMethods
from ._client_tasks import TaskMethods
from ._transport import BlockingTransport


class Methods(TaskMethods, StoreMethods):
    """Talks to one server over connections that it keeps; may be shared between threads.

    Every method takes `timeout`, `priority` and `request_id` as keywords for that one call. A picture is a
    path, bytes, a PIL image or a binary file; a string that begins with http://, https:// or data: is sent as
    it is. The `_many` methods send any number of inputs in few requests and give, in order, a result or an
    `ItemError` each.
    """


class Client(Methods, BlockingTransport):
    __doc__ = Methods.__doc__
