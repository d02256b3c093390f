"""Jobs, and free ports."""

import socket
from collections.abc import Callable

import pytest

from vlmoe_model.inputs import Job

from ..tiny import jobs as jobs_of_tiny


@pytest.fixture
def jobs() -> Callable[[int], list[Job]]:
    return jobs_of_tiny


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
            return port

    return find
