"""The asyncio client: what it can do is in `_async_client_tasks` and `_async_client_store`."""

from __future__ import annotations

from ._async_client_store import AsyncStoreMethods
from ._async_client_tasks import AsyncTaskMethods


class AsyncClient(AsyncTaskMethods, AsyncStoreMethods):
    """Talks to one server over connections that it keeps; may be shared between tasks.

    Methods, arguments and results are `Client`'s; see there.
    """
