"""Talk to a vlmoe server: ask about pictures, search, classify and embed.

    with Client("http://127.0.0.1:8000") as client:
        client.vqa("shoe.png", "what is this?").best

`Client` blocks, `AsyncClient` is for asyncio, `GrpcClient` blocks over gRPC; methods, results and errors are the same.
"""

from typing import TYPE_CHECKING

from ._async_client import AsyncClient
from ._call import CallOptions
from ._client import Client
from ._errors import (
    ApiError,
    BadRequest,
    CallTimeout,
    Conflict,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    Forbidden,
    NetworkError,
    NotFound,
    Overloaded,
    ServerError,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unprocessable,
    UnsupportedImage,
    VlmoeError,
)
from ._images import ImageSource
from ._results import (
    AddResult,
    Answer,
    ClassifyResult,
    Collection,
    Embedding,
    Hit,
    Item,
    ItemError,
    Label,
    Model,
    PatchGrid,
    Ranked,
    RerankResult,
    Result,
    RetrieveResult,
    RoutedLayer,
    RoutedToken,
    RoutingResult,
    Timings,
    Usage,
    VqaResult,
)
from ._retry import Retry
from ._version import __version__

if TYPE_CHECKING:
    from ._grpc_client import GrpcClient

__all__ = [
    "AddResult",
    "Answer",
    "ApiError",
    "AsyncClient",
    "BadRequest",
    "CallOptions",
    "CallTimeout",
    "ClassifyResult",
    "Client",
    "Collection",
    "Conflict",
    "ConnectFailed",
    "ConnectionLost",
    "DeadlineExceeded",
    "Embedding",
    "Forbidden",
    "GrpcClient",
    "Hit",
    "ImageSource",
    "Item",
    "ItemError",
    "Label",
    "Model",
    "NetworkError",
    "NotFound",
    "Overloaded",
    "PatchGrid",
    "Ranked",
    "RerankResult",
    "Result",
    "RetrieveResult",
    "Retry",
    "RoutedLayer",
    "RoutedToken",
    "RoutingResult",
    "ServerError",
    "Timings",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Unprocessable",
    "UnsupportedImage",
    "Usage",
    "VlmoeError",
    "VqaResult",
    "__version__",
]


def __getattr__(name: str) -> object:
    # gRPC takes a while to import, and most programs speak HTTP
    if name == "GrpcClient":
        from ._grpc_client import GrpcClient

        return GrpcClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
