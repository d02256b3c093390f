"""The users of the gRPC door, against a real server."""

import socket

import pytest

from vlmoe_loadtests.own_server import own_server

from .swarm import needs_locust, swarm


@pytest.mark.slow
@needs_locust
def test_users_get_answers(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with own_server(["--threads", "1", "--grpc-port", port]):
        seen = swarm("locustfile_grpc.py", f"grpc://127.0.0.1:{port}", tmp_path)
    assert {("grpc", "Vqa"), ("grpc", "EmbedStream of 16")} <= seen
