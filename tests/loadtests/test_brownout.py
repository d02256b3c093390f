"""Reading answers, and figures of rounds; the trial itself at its smallest."""

import re
import subprocess
import sys

import pytest

from vlmoe_loadtests.brownout import Measured, Phase, best_of, measured, table
from vlmoe_loadtests.records import Record


def phase(server, number, good, load=1.5):
    return Phase(server, load, number, good, 100.0, 200.0, float(server != "never"), 300, 40.0, 1.0)


def test_the_best_of_an_answer_is_its_first_whatever_the_task():
    assert best_of(b'{"answers": [{"answer": "yes", "score": 0.9}, {"answer": "no", "score": 0.1}]}') == "yes"
    assert best_of(b'{"labels": [{"label": "shoe", "score": 0.9}]}') == "shoe"
    with pytest.raises(ValueError, match="without answers or labels"):
        best_of(b'{"embedding": [1.0]}')


def test_the_first_fifth_of_a_phase_warms_up():
    records = [
        Record("vqa", 1, due_s, due_s, due_s + 0.1, 200, batch_tokens=tokens, mode=mode)
        for due_s, tokens, mode in ((0.5, 1000, "m"), (2.0, 100, ""), (3.0, 200, "m"), (4.0, 300, "m"))
    ]
    found = measured("overloaded", 3.0, 2, [*records, Record("vqa", 1, 4.5, 4.5, 4.6, 429)], 5.0, 1000)
    assert (found.server, found.load, found.round) == ("overloaded", 3.0, 2)
    assert found.good == pytest.approx(3 / 4)
    assert found.browned == pytest.approx(2 / 3)
    assert found.tokens == 200


def test_a_phase_in_which_nobody_was_answered_has_figures_too():
    found = measured("never", 3.0, 0, [Record("vqa", 1, 4.0, 4.0, 4.1, 429)], 5.0, 1000)
    assert (found.good, found.browned, found.tokens) == (0, 0, 0)


def test_ratios_are_to_the_same_round():
    goods = {"never": (10.0, 40.0, 20.0), "overloaded": (15.0, 40.0, 22.0), "always": (20.0, 44.0, 30.0)}
    rows = [phase(name, number, good) for name, all_of in goods.items() for number, good in enumerate(all_of)]
    lines = table(rows).splitlines()
    assert len(lines) == 4
    assert "20.0 (10.0 .. 40.0)" in lines[1]
    assert "1.10 (1.00 .. 1.50)" in lines[2]
    assert "1.50 (1.10 .. 2.00)" in lines[3]


def test_a_round_without_a_good_answer_has_no_ratio():
    rows = [phase("never", 0, 0.0), phase("overloaded", 0, 5.0), phase("always", 0, 5.0)]
    assert re.split("  +", table(rows).splitlines()[2])[3] == "-"


def test_what_was_measured_is_kept(tmp_path):
    path = tmp_path / "phases.json"
    assert Measured.read(path, 7.0) == Measured(7.0, ())
    found = Measured(30.0, (phase("never", 0, 1.0), phase("always", 1, 2.0)))
    found.write(path)
    assert Measured.read(path, 7.0) == found


@pytest.mark.slow
def test_three_servers_are_asked_in_turns(tmp_path):
    command = [sys.executable, "-m", "vlmoe_loadtests.brownout", "--rounds", "1", "--seconds", "2"]
    command += ["--rate", "20", "--multiple", "1", "--json", str(tmp_path / "phases.json")]
    subprocess.run([*command, "--", "--threads", "1"], check=True, timeout=500, cwd=tmp_path)
    found = Measured.read(tmp_path / "phases.json", 0.0)
    assert found.capacity == 20
    assert [one.server for one in found.phases] == ["never", "overloaded", "always"]
    assert all(one.good > 0 for one in found.phases)
    assert [one.browned for one in found.phases] == [0.0, 0.0, 1.0]
    assert found.phases[0].same == 1.0
