"""Pieces of a run: what is there is not measured again, and the table is made of the file."""

import multiprocessing
import os

import pytest

from peers.main import main, split_cores
from peers.results import Figures, Results, Trial

FIGURES = Figures(2.0, 300.0, 8.0, 12.0, 250.0, 120.0, 180.0, 0, 4.0, 0.3, 10.0, 20.0, 1.0, [200.0, 190.0])


def test_a_table_needs_no_server(tmp_path, capsys):
    results = Results(capacity=250.0)
    results.add(Trial(0, "mosec", "0.9.8", FIGURES))
    results.write(tmp_path / "results.json")
    assert main(["--out", str(tmp_path), "--table"]) == 0
    told = capsys.readouterr().out
    assert "| Mosec 0.9.8 | " in told
    assert (tmp_path / "table.md").read_text() + "\n" == told


def test_a_server_that_is_not_installed_is_told_in_the_table(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--only", "vllm", "--capacity", "100", "--rounds", "1"]
    assert main([*arguments, "--vllm-python", str(tmp_path / "none")]) == 0
    assert "- vllm: not installed: " in capsys.readouterr().out
    assert Results.read(tmp_path / "results.json").trials == []


def test_what_was_measured_is_not_measured_again(tmp_path, capsys):
    results = Results(capacity=250.0)
    results.add(Trial(0, "mosec", "0.9.8", FIGURES))
    results.write(tmp_path / "results.json")
    # with this cache it could not be
    assert (
        main(["--out", str(tmp_path), "--only", "mosec", "--rounds", "1", "--environments", "/dev/null"]) == 0
    )
    assert "round 0" not in capsys.readouterr().out


def split(num, told):
    """In a process of its own, which moves."""
    try:
        told.put((split_cores(num), os.sched_getaffinity(0)))
    except SystemExit as error:
        told.put((str(error), os.sched_getaffinity(0)))


def apart(num):
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=split, args=(num, told))
    process.start()
    found = told.get(timeout=240)
    process.join()
    return found


def test_servers_and_callers_share_the_machine_unless_told_otherwise():
    assert apart(0) == ((), os.sched_getaffinity(0))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor cannot be split")
def test_callers_leave_the_cores_of_the_servers():
    first, *others = sorted(os.sched_getaffinity(0))
    assert apart(1) == ((first,), set(others))


@pytest.mark.parametrize("num", [-1, len(os.sched_getaffinity(0))])
def test_cores_that_cannot_be_split_are_told(num):
    told, cores = apart(num)
    assert told.startswith("--cores must leave one of ")
    assert told.endswith(f"got {num}")
    assert cores == os.sched_getaffinity(0)
