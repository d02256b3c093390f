"""Names for gRPC's types: generic for the type checker, but not at run time."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    Context = grpc.aio.ServicerContext
    Handler = grpc.RpcMethodHandler

# how a handler that streams both ways answers: it reads and writes by its context
Answer = Callable[[object, Context], Awaitable[None]]
