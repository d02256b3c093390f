"""The same server over HTTP and over gRPC."""

import pytest

from vlmoe_client import (
    Client,
    GrpcClient,
)


@pytest.fixture
def both(server):
    """The same server over HTTP and over gRPC."""
    with (
        Client(server.url, timeout=30) as http,
        GrpcClient(f"grpc://{server.grpc}", timeout=30) as grpc_client,
    ):
        yield http, grpc_client
