"""The whole generator against a real server with the demo checkpoint: small, and nothing is timed."""

import subprocess
import sys

from vlmoe_loadtests.records import read_csv


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "vlmoe_loadtests", *arguments], capture_output=True, text=True, timeout=240
    )


def test_it_measures_capacity_and_sends_multiples_of_it(tmp_path):
    done = run(
        *("--seconds", "2", "--clients", "4", "--multiple", "0.5", "3", "--mix", "text", "--deadline"),
        *(
            "--out",
            str(tmp_path / "out"),
            "--",
            "--data-dir",
            str(tmp_path / "data"),
            "--threads",
            "1",
            "--cache-mb",
            "0",
        ),
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == ["4 clients", "0.5 x", "3 x"]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["0.5-x.csv", "0.5-x.svg", "3-x.csv", "3-x.svg", "4-clients.csv", "4-clients.svg"]
    # the callers of the closed loop wait for their answers, so some of theirs come on the slowest machine
    closed = read_csv(tmp_path / "out" / "4-clients.csv")
    assert any(record.outcome == "ok" and record.forward_ms > 0 for record in closed)
    for name in ("0.5-x", "3-x"):
        records = read_csv(tmp_path / "out" / f"{name}.csv")
        assert {record.outcome for record in records} <= {"ok", "429", "504"}, "documented answers only"


def test_only_plain_http_is_spoken():
    done = run("--url", "https://127.0.0.1:1")
    assert (done.returncode, done.stderr) == (2, "only http:// is spoken here, got https://127.0.0.1:1\n")
