"""The users of the HTTP door, against a real server."""

import pytest

from vlmoe_loadtests.own_server import own_server

from .swarm import needs_locust, swarm


@pytest.mark.slow
@needs_locust
def test_users_get_answers_and_phases(tmp_path):
    with own_server(["--threads", "1"]) as server:
        seen = swarm("locustfile.py", server.url, tmp_path)
    assert {("phase", "encode"), ("phase", "queue"), ("phase", "forward"), ("POST", "vqa")} <= seen
