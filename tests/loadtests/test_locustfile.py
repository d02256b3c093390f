"""Locust's users against a real server."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlmoe_loadtests.own_server import own_server

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="the extra `load` is not installed")
def test_users_get_answers_and_phases(tmp_path):
    with own_server(["--data-dir", str(tmp_path / "data"), "--threads", "1"]) as url:
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests/locustfile.py"), "--host", url]
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
    assert {("phase", "encode"), ("phase", "queue"), ("phase", "forward"), ("POST", "vqa")} <= set(rows)
