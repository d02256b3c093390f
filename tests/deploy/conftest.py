"""What the tests of deploy/ share: real helm, and objects as it renders them."""

import contextlib
import functools
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "vlmoe"

Objects = dict[str, dict[str, Any]]


def load_module(path: Path) -> ModuleType:
    """A script of deploy/, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(f"deploy_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """The path of a program of deploy/tools.py; the test fails with its reason when it cannot be had."""
    tools = load_module(ROOT / "deploy" / "tools.py")

    @functools.cache
    def find(name: str) -> str:
        try:
            return str(tools.tool(name))
        except tools.ToolError as error:
            pytest.fail(f"deploy/tools.py: {error}", pytrace=False)

    return find


@pytest.fixture(scope="session")
def helm(tool: Callable[[str], str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run helm with these arguments."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tool("helm"), *map(str, arguments)], capture_output=True, text=True, timeout=240
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Objects]:
    """The objects of release r1 in namespace serving, by `Kind/name`.

    values: a file of ci/, of the chart's folder, or none. sets: `key=value` as for --set-json.
    """

    @functools.cache
    def text(values: str, sets: tuple[str, ...]) -> str:
        files = [path for path in (CHART / "ci" / values, CHART / values) if path.is_file()]
        arguments = [item for each in sets for item in ("--set-json", each)]
        done = helm(
            *("template", "r1", CHART, "--namespace", "serving"),
            *(["--values", files[0]] if files else []),
            *arguments,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(values: str = "", *sets: str) -> Objects:
        objects = [each for each in yaml.safe_load_all(text(values, sets)) if each]
        named = {f"{each['kind']}/{each['metadata']['name']}": each for each in objects}
        assert len(named) == len(objects), "two objects of one kind and name"
        return named

    return run


@pytest.fixture(scope="session")
def pod_spec() -> Callable[[Objects], dict[str, Any]]:
    """The server's pod."""

    def find(objects: Objects) -> dict[str, Any]:
        kinds = ("Deployment", "StatefulSet", "LeaderWorkerSet")
        (workload,) = [each for each in objects.values() if each["kind"] in kinds]
        spec = workload["spec"]
        template = (
            spec["leaderWorkerTemplate"]["workerTemplate"]
            if "leaderWorkerTemplate" in spec
            else spec["template"]
        )
        pod: dict[str, Any] = template["spec"]
        return pod

    return find


@pytest.fixture(scope="session")
def container(pod_spec: Callable[[Objects], dict[str, Any]]) -> Callable[[Objects], dict[str, Any]]:
    """The server's container."""

    def find(objects: Objects) -> dict[str, Any]:
        first: dict[str, Any] = pod_spec(objects)["containers"][0]
        assert first["name"] == "vlmoe"
        return first

    return find


@pytest.fixture(scope="session")
def load() -> Callable[[Path], ModuleType]:
    """A script of deploy/ as a module."""
    return load_module


@dataclass(frozen=True, slots=True)
class Server:
    """A real server with the demo checkpoint."""

    url: str
    process: subprocess.Popen[bytes]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start `vlmoe serve` with these arguments on a free port, and wait until it is ready."""
    with contextlib.ExitStack() as stack:

        def start(
            *arguments: str, command: Sequence[str] = (), environment: Mapping[str, str] = os.environ
        ) -> Server:
            log = tmp_path / "serve.log"
            main = "import sys; from vlmoe_serve.main import run; sys.exit(run(sys.argv[1:]))"
            program = [*command] or [sys.executable, "-c", main]
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [*program, "--port", "0", "--grpc-port", "0", "--threads", "1", *arguments],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**environment, "VLMOE_SERVE_DATA_DIR": str(tmp_path / "data")},
                )
            stack.callback(_end, process)
            give_up_s = time.monotonic() + 240
            while (ready := re.search(r"ready on (\S+)", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < give_up_s, log.read_text()
                time.sleep(0.1)
            return Server(ready[1], process)

        yield start


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(240)
