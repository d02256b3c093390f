"""The whole harness, small, with the one server that our own environment can run: bare FastAPI."""

import asyncio
import importlib.metadata
import re
from dataclasses import replace

import pytest

from peers import trial
from peers.environments import Environments, NotInstalled
from peers.main import expected
from peers.process import NotStarted
from peers.systems import SYSTEMS
from peers.trial import Plan, Questions, WrongAnswers, interpreter, measure, version
from vlmoe_loadtests.mixes import asks

PLAN = Plan(seconds=0.5, clients=4)


@pytest.fixture(scope="module")
def questions():
    wanted = asks("small-vqa", 0)[:6]
    return Questions(wanted, expected("demo", [ask.body for ask in wanted]))


@pytest.fixture
def fastapi():
    # its requirements are ours, so no environment has to be made
    return replace(SYSTEMS["fastapi-process"], requirements=None)


def figures_of(systems, tmp_path, questions, capacity):
    return asyncio.run(measure(systems, Environments(tmp_path), questions, PLAN, capacity))


def test_figures_of_bare_fastapi(fastapi, questions, tmp_path):
    figures = figures_of([fastapi], tmp_path, questions, 10.0)["fastapi-process"]
    assert figures.many_failed == 0
    assert figures.many_rate > 0
    assert 0 < figures.alone_p50_ms <= figures.alone_p99_ms
    assert 0 < figures.loaded_p50_ms <= figures.loaded_p99_ms
    assert figures.loaded_answered == 1.0
    assert len(figures.good) == 2
    assert figures.cpu_ms > 0
    assert figures.client_cpu_ms > 0
    # the front, and the model in a process of its own
    assert figures.pss_mb > 100
    assert 0 <= figures.idle_share < 0.5
    assert list(tmp_path.iterdir()) == []


def test_without_a_capacity_there_are_no_loads(fastapi, questions, tmp_path):
    figures = figures_of([fastapi], tmp_path, questions, 0.0)["fastapi-process"]
    assert figures.many_rate > 0
    assert (figures.loaded_answered, figures.good) == (0.0, [])


def test_servers_are_measured_beside_each_other_and_one_that_fails_disturbs_none(
    fastapi, questions, tmp_path
):
    broken = replace(fastapi, name="broken", command=lambda launch: [str(launch.python), "-c", "exit('no')"])
    missing = replace(fastapi, name="missing", requirements=())
    other = replace(fastapi, name="other")
    found = figures_of([missing, fastapi, broken, other], tmp_path, questions, 10.0)
    assert isinstance(found["missing"], NotInstalled)
    assert isinstance(found["broken"], NotStarted)
    assert [len(found[name].good) for name in ("fastapi-process", "other")] == [2, 2]


def test_one_that_is_busy_while_idle_is_measured_too(fastapi, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "BUSY_SHARE", -1.0)
    found = figures_of([fastapi, replace(fastapi, name="other")], tmp_path, questions, 10.0)
    assert [len(figures.good) for figures in found.values()] == [2, 2]


def test_a_server_that_answers_otherwise_is_not_measured(fastapi, questions, tmp_path):
    wrong = Questions(questions.asks, ["no such answer", *questions.best[1:]])
    found = figures_of([fastapi], tmp_path, wrong, 0.0)["fastapi-process"]
    assert isinstance(found, WrongAnswers)
    assert re.search(r"fastapi-process: 200 .* instead of 'no such answer'", str(found))


def test_versions_are_those_of_its_environment(fastapi, tmp_path):
    assert version(fastapi, interpreter(fastapi, Environments(tmp_path))) == importlib.metadata.version(
        "fastapi"
    )
