"""The whole harness, small, with the one server that our own environment can run: bare FastAPI."""

import asyncio
import importlib.metadata
from dataclasses import replace

import pytest

from peers.environments import Environments
from peers.main import expected
from peers.systems import SYSTEMS
from peers.trial import Plan, Questions, WrongAnswers, interpreter, measure, version
from vlmoe_loadtests.mixes import asks

PLAN = Plan(seconds=1.0, clients=4)


@pytest.fixture(scope="module")
def questions():
    wanted = asks("small-vqa", 0)[:6]
    return Questions(wanted, expected("demo", [ask.body for ask in wanted]))


@pytest.fixture
def fastapi():
    # its requirements are ours, so no environment has to be made
    return replace(SYSTEMS["fastapi-process"], requirements=None)


def test_figures_of_bare_fastapi(fastapi, questions, tmp_path):
    figures = asyncio.run(measure(fastapi, Environments(tmp_path), questions, PLAN, capacity=10.0))
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
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_answers_otherwise_is_not_measured(fastapi, questions, tmp_path):
    wrong = Questions(questions.asks, ["no such answer", *questions.best[1:]])
    with pytest.raises(WrongAnswers, match=r"fastapi-process: 200 .* instead of 'no such answer'"):
        asyncio.run(measure(fastapi, Environments(tmp_path), wrong, PLAN, capacity=0.0))


def test_versions_are_those_of_its_environment(fastapi, tmp_path):
    assert version(fastapi, interpreter(fastapi, Environments(tmp_path))) == importlib.metadata.version(
        "fastapi"
    )
