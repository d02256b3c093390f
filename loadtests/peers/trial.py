"""One server, started, measured once, ended.

right answers? -> warm up -> memory -> alone -> many clients -> Poisson arrivals -> overload, overload
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peers.environments import Environments
from peers.process import Running, free_port, running
from peers.results import Figures, Trial
from peers.systems import Launch, System
from vlmoe_loadtests.arrivals import poisson
from vlmoe_loadtests.generator import Target, closed_loop, open_loop
from vlmoe_loadtests.mixes import Ask
from vlmoe_loadtests.records import Record
from vlmoe_loadtests.summary import percentile
from vlmoe_loadtests.wire import Pool

_ROOT = Path(__file__).parents[2]
# the model's code and the programs; our own server gets no path that it would not have anyway
_PATHS = (_ROOT / "kernels", _ROOT / "model", _ROOT / "loadtests")
# a server rests when it takes less than this share of a core
_IDLE_SHARE, _REST_S, _MOST_RESTS = 0.3, 0.5, 10
_VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


class WrongAnswers(RuntimeError):
    """A server does not answer as the model does, so its figures would mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to measure. seconds: of one phase. timeout_s: when callers give up. cores: of the servers; none: all."""

    model: str = "demo"
    seconds: float = 6.0
    clients: int = 32
    load: float = 0.7
    overloads: tuple[float, float] = (1.5, 3.0)
    objective_ms: float = 250.0
    timeout_s: float = 2.0
    seed: int = 0
    cores: tuple[int, ...] = ()

    @property
    def warm_s(self) -> float:
        """A third of a phase."""
        return self.seconds / 3


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked, and the best answer to each."""

    asks: Sequence[Ask]
    best: Sequence[str]


async def measure(
    system: System, environments: Environments, questions: Questions, plan: Plan, capacity: float
) -> Figures:
    """All figures of one server; at a capacity of 0, its throughput alone.

    Raises:
        EnvironmentFailed, NotStarted, WrongAnswers
    """
    python = interpreter(system, environments)
    asks = system.asks(questions.asks)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        launch = Launch(python, port, Path(folder))
        variables = {"PEERS_MODEL": plan.model, "PEERS_PORT": str(port), "OMP_NUM_THREADS": "1"}
        if system.requirements is not None:
            variables["PYTHONPATH"] = ":".join(map(str, _PATHS))
        variables |= system.variables
        log = Path(folder) / "log"
        async with running(system.command(launch), variables, asks[0], port, log, cores=plan.cores) as server:
            await _check(system, asks, questions, port)
            return await _Run(server, asks, plan).figures(capacity)


def interpreter(system: System, environments: Environments) -> Path:
    """What runs a server: a Python of its own, which is made if there is none, or ours."""
    if system.requirements is None:
        return Path(sys.executable)
    return environments.python(system.name.partition("-")[0], system.requirements)


def version(system: System, python: Path) -> str:
    """Of the server's package."""
    command = [str(python), "-c", _VERSION, system.package]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


async def _check(system: System, asks: Sequence[Ask], questions: Questions, port: int) -> None:
    pool = Pool("127.0.0.1", port)
    for ask, expected in zip(asks, questions.best, strict=True):
        answer = await pool.ask(ask.wire("127.0.0.1", {}), 60.0)
        try:
            found = system.best(json.loads(answer.body))
        except (ValueError, LookupError, TypeError):
            found = ""
        if answer.status != 200 or found != expected:
            raise WrongAnswers(
                f"{system.name}: {answer.status} {answer.body[:200]!r} instead of {expected!r}"
            )
    pool.close()


class _Run:
    def __init__(self, server: Running, asks: Sequence[Ask], plan: Plan) -> None:
        self._server, self._asks, self._plan = server, asks, plan
        self._target = Target(
            host="127.0.0.1",
            port=server.port,
            timeout_s=plan.timeout_s,
            # every server is told; who does not know the header reads over it
            headers={"x-request-timeout-ms": f"{plan.objective_ms:.0f}"},
        )
        self._patient = Target(host="127.0.0.1", port=server.port)

    async def figures(self, capacity: float) -> Figures:
        plan = self._plan
        await closed_loop(self._patient, self._asks, plan.clients, plan.warm_s)
        await closed_loop(self._patient, self._asks, 1, plan.warm_s / 2)
        pss_mb = self._server.pss_mb()
        alone = _latencies(await closed_loop(self._patient, self._asks, 1, plan.seconds))
        server_s, client_s, start_s = self._server.cpu_s(), time.process_time(), time.perf_counter()
        records = await closed_loop(self._patient, self._asks, plan.clients, plan.seconds)
        wall_s = time.perf_counter() - start_s
        client_s, server_s = time.process_time() - client_s, self._server.cpu_s() - server_s
        many = _latencies(records)
        figures = Figures(
            start_s=self._server.start_s,
            pss_mb=pss_mb,
            alone_p50_ms=percentile(alone, 50),
            alone_p99_ms=percentile(alone, 99),
            many_rate=len(many) / wall_s,
            many_p50_ms=percentile(many, 50),
            many_p99_ms=percentile(many, 99),
            many_failed=len(records) - len(many),
            cpu_ms=1000 * server_s / len(many),
            client_cpu_ms=1000 * client_s / len(records),
        )
        if not capacity:
            return figures
        loaded = await self._open(plan.load * capacity, patient=True)
        figures.loaded_p50_ms = percentile(_latencies(loaded), 50)
        figures.loaded_p99_ms = percentile(_latencies(loaded), 99)
        figures.loaded_answered = len(_latencies(loaded)) / len(loaded)
        figures.good = [
            await self._good(multiple * capacity, number) for number, multiple in enumerate(plan.overloads)
        ]
        return figures

    async def _open(self, rate: float, *, patient: bool = False, number: int = 0) -> list[Record]:
        due = list(poisson(rate, self._plan.seconds, self._plan.seed + number))
        return await open_loop(self._patient if patient else self._target, self._asks, due)

    async def _good(self, rate: float, number: int) -> float:
        await self._rest()
        skip_s = self._plan.warm_s / 2
        records = await self._open(rate, number=number + 1)
        good = [
            record
            for record in records
            if record.outcome == "ok"
            and record.due_s >= skip_s
            and record.latency_ms <= self._plan.objective_ms
        ]
        return len(good) / (self._plan.seconds - skip_s)

    async def _rest(self) -> None:
        """Until the server has done what is left of the phase before; what its callers gave up on may take long."""
        for _ in range(_MOST_RESTS):
            before_s = self._server.cpu_s()
            await asyncio.sleep(_REST_S)
            if self._server.cpu_s() - before_s < _IDLE_SHARE * _REST_S:
                return


def _latencies(records: Sequence[Record]) -> list[float]:
    return sorted(record.latency_ms for record in records if record.outcome == "ok")


def trial(
    system: System,
    environments: Environments,
    questions: Questions,
    plan: Plan,
    capacity: float,
    number: int,
) -> Trial:
    """One round's figures of one server.

    Raises:
        EnvironmentFailed, NotInstalled, NotStarted, WrongAnswers
    """
    figures = asyncio.run(measure(system, environments, questions, plan, capacity))
    return Trial(number, system.name, version(system, interpreter(system, environments)), figures)
