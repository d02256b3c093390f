"""Locust users for some seconds, and what they noted."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

LOADTESTS = Path(__file__).parents[2] / "loadtests"
needs_locust = pytest.mark.skipif(
    importlib.util.find_spec("locust") is None, reason="the extra `load` is not installed"
)


def swarm(locustfile: str, host: str, notes: Path) -> set[tuple[str, str]]:
    """The entries, by type and name, of eight users of a file of loadtests/; nothing may have failed."""
    command = [sys.executable, "-m", "locust", "-f", str(LOADTESTS / locustfile), "--host", host]
    command += ["--headless", "--users", "8", "--spawn-rate", "8", "--run-time", "20s"]
    done = subprocess.run(
        [*command, "--csv", str(notes / "run"), "--only-summary"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (notes / "run_stats.csv").open() as file:
        rows = {(row["Type"], row["Name"]): row for row in csv.DictReader(file)}
    assert int(rows["", "Aggregated"]["Failure Count"]) == 0
    return set(rows)
