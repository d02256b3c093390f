"""Talk to a vlmoe server: ask about pictures, search, classify and embed.

    with Client("http://127.0.0.1:8000") as client:
        client.vqa("shoe.png", "what is this?").best

`Client` blocks, `AsyncClient` is for asyncio; methods, results and errors are the same.
"""

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
    Ranked,
    RerankResult,
    Result,
    RetrieveResult,
    Timings,
    Usage,
    VqaResult,
)
from ._retry import Retry
from ._version import __version__

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
    "Hit",
    "ImageSource",
    "Item",
    "ItemError",
    "Label",
    "Model",
    "NetworkError",
    "NotFound",
    "Overloaded",
    "Ranked",
    "RerankResult",
    "Result",
    "RetrieveResult",
    "Retry",
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
