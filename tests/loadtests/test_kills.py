"""Judging answers, and the whole trial against a server whose engine is killed."""

import json
import subprocess
import sys

import pytest

from vlmoe_loadtests.kills import Tally
from vlmoe_loadtests.wire import Answer

BUSY = json.dumps({"error": {"code": "overloaded", "message": "later", "param": None}}).encode()


def answer(status=200, body=b"right", request_id="one"):
    return Answer(status, {"x-request-id": request_id}, body)


def test_only_the_expected_bytes_are_right():
    tally = Tally()
    tally.add(answer(), b"right", "one")
    assert (tally.right, tally.clean) == (1, True)
    tally.add(answer(body=b"wrong"), b"right", "one")
    assert (tally.right, tally.wrong, tally.clean) == (1, 1, False)
    assert tally.examples == ["one: 200 b'wrong' instead of b'right'"]


def test_an_answer_to_somebody_else_is_not_right():
    tally = Tally()
    tally.add(answer(request_id="two"), b"right", "one")
    assert (tally.right, tally.foreign, tally.clean) == (0, 1, False)


@pytest.mark.parametrize(
    ("status", "body", "documented"),
    [
        (429, BUSY, True),
        (503, BUSY.replace(b"overloaded", b"engine_unavailable"), True),
        (503, BUSY, False),
        (500, BUSY.replace(b"overloaded", b"internal_error"), False),
        (503, b"upstream down", False),
        (503, b"[]", False),
        (504, BUSY.replace(b"overloaded", b"deadline_exceeded"), False),
    ],
)
def test_errors_have_to_be_documented_ones(status, body, documented):
    tally = Tally()
    tally.add(answer(status, body), b"right", "one")
    assert (sum(tally.errors.values()), tally.wrong, tally.clean) == (documented, not documented, documented)


def test_no_answer_is_a_lost_request():
    tally = Tally()
    tally.lose("one", ConnectionError("gone"))
    assert (tally.lost, tally.clean, tally.examples) == (1, False, ["one: ConnectionError gone"])


@pytest.mark.slow
def test_nothing_is_lost_or_wrong_while_the_engine_is_killed(tmp_path):
    command = [sys.executable, "-m", "vlmoe_loadtests.kills", "--requests", "3000", "--every-s", "5"]
    server = ["--threads", "1", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(
        [*command, "--variety", "1", "--json", str(tmp_path / "tally.json"), "--", *server],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    tally = json.loads((tmp_path / "tally.json").read_text())
    assert tally["right"] + sum(tally["errors"].values()) == 3000
    assert tally["kills"] >= 1
    assert tally["right"] > 0
