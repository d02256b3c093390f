"""The same server over HTTP and over gRPC."""

import pytest

from vlmoe_client import (
    Client,
    GrpcClient,
)

from ...waiting import PATIENCE_S


@pytest.fixture
def both(server):
    """The same server over HTTP and over gRPC."""
    with (
        Client(server.url, timeout=PATIENCE_S) as http,
        GrpcClient(f"grpc://{server.grpc}", timeout=PATIENCE_S) as grpc_client,
    ):
        yield http, grpc_client
