import pytest

from vlmoe_loadtests.own_server import own_server


def test_a_server_has_one_engine_and_ends(tmp_path):
    with own_server(["--threads", "1", "--data-dir", str(tmp_path)]) as server:
        (engine,) = server.engine_pids()
        assert engine != server.pid
        assert server.url.startswith("http://127.0.0.1:")


def test_one_that_does_not_start_is_told():
    with (
        pytest.raises(RuntimeError, match=r"did not start: .* --port 0 .* --model nowhere"),
        own_server(["--model", "nowhere"]),
    ):
        pass
