"""Locust's users of the gRPC door against a real server."""

import csv
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vlmoe_loadtests.own_server import own_server

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="the extra `load` is not installed")
def test_users_get_answers(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with own_server(["--data-dir", str(tmp_path / "data"), "--threads", "1", "--grpc-port", port]):
        file, host = ROOT / "loadtests/locustfile_grpc.py", f"grpc://127.0.0.1:{port}"
        command = [sys.executable, "-m", "locust", "-f", str(file), "--host", host]
        command += ["--headless", "--users", "8", "--spawn-rate", "8", "--run-time", "20s"]
        done = subprocess.run(
            [*command, "--csv", str(tmp_path / "run"), "--only-summary"],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "run_stats.csv").open() as file:
        rows = {(row["Type"], row["Name"]): row for row in csv.DictReader(file)}
    assert int(rows["", "Aggregated"]["Failure Count"]) == 0
    assert {("grpc", "Vqa"), ("grpc", "EmbedStream of 16")} <= set(rows)
