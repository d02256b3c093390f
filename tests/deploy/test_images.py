"""The images without a Docker engine: their steps are run, and the server is started as they start it."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
import pytest

from vlmoe_serve.option_sources import parse_options

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
FILES = ["Dockerfile", "Dockerfile.cuda"]


@pytest.fixture(scope="module")
def dockerfile(request):
    return request.getfixturevalue("load")(Path(__file__).with_name("dockerfile.py"))


def settings(dockerfile, name):
    """The last stage's instructions, the last of each word."""
    steps = dockerfile.instructions((DOCKER / name).read_text())
    last = max(i for i, (word, _) in enumerate(steps) if word == "FROM")
    return dict(steps[last:]), steps


@pytest.mark.parametrize("name", FILES)
def test_the_image_is_pinned_and_nobody_in_it_is_root(dockerfile, name):
    final, steps = settings(dockerfile, name)
    assert final["USER"] == "10001:10001"
    (base,) = [rest for word, rest in steps if word == "ARG" and rest.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=python:\d+\.\d+\.\d+-slim-bookworm", base)
    assert {rest.split()[0] for word, rest in steps if word == "FROM"} == {"${PYTHON}"}
    installs = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    assert all(
        "--require-hashes" in each or "${TORCH}" in each or "--no-deps /opt/build/dist" in each
        for each in installs
    )
    (torch,) = [rest for word, rest in steps if word == "ARG" and rest.startswith("TORCH=")]
    assert re.search(r"torch==\d+\.\d+\.\d+ ", torch)


@pytest.mark.parametrize("name", FILES)
def test_the_server_takes_what_the_image_says(dockerfile, name):
    final, steps = settings(dockerfile, name)
    last = max(i for i, (word, _) in enumerate(steps) if word == "FROM")
    pairs = [pair for word, rest in steps[last:] if word == "ENV" for pair in rest.split()]
    variables = dict(pair.split("=", 1) for pair in pairs)
    assert dockerfile.words(final["ENTRYPOINT"]) == ["vlmoe"]
    command, *arguments = dockerfile.words(final["CMD"])
    assert command == "serve"
    options = parse_options(arguments, variables)
    assert (options.host, str(options.data_dir)) == ("0.0.0.0", final["VOLUME"])
    assert f"{options.port} {options.grpc_port}" == final["EXPOSE"]


@pytest.mark.deploy
def test_every_requirement_has_its_checksum_and_the_extra_is_covered():
    import tomllib

    from packaging.requirements import Requirement

    text = (DOCKER / "requirements.txt").read_text()
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", text, re.MULTILINE))
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["serve"], *extras["model"]]
    names = {Requirement(each).name for each in wanted} - {"vlmoe", "torch"}
    assert names - pinned == set(), "run make lock"


@pytest.mark.deploy
def test_the_steps_make_a_server_that_writes_nowhere(dockerfile):
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting a root of its own takes root and unshare")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        scratch.chmod(0o755)
        torch = f"torch=={_version_of('torch')}"
        build = dockerfile.Build(scratch, ROOT, {"TORCH": torch})
        try:
            stage = build.run((DOCKER / "Dockerfile").read_text())
        except subprocess.CalledProcessError as error:
            pytest.fail(f"{error.cmd[-1]}\n{error.stdout.decode()[-2000:]}{error.stderr.decode()[-3000:]}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        variables = {"VLMOE_SERVE_PORT": str(port), "VLMOE_SERVE_HOST": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        variables["VLMOE_SERVE_GRPC_PORT"] = "0"
        command = dockerfile.words(stage.settings["ENTRYPOINT"]) + dockerfile.words(stage.settings["CMD"])
        log = scratch / "log"
        process = build.start(stage, command, variables=variables, log=log)
        stack.callback(lambda: (process.kill(), process.wait()))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            give_up_s = time.monotonic() + 120
            while not _ready(client):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < give_up_s, log.read_text()
                time.sleep(0.2)
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert re.search(r"^Uid:\s+10001\s+10001\s+10001", status, re.MULTILINE)
            assert client.put("/collections/gallery", json={}).status_code == 200
            question = [("question", (None, "what color is the shape?"))]
            picture = ("image", ("shape.png", (ROOT / "docs/examples/shape.png").read_bytes()))
            assert client.post("/vqa", files=[picture, *question]).json()["answers"]
        health = dockerfile.words(stage.settings["HEALTHCHECK"].partition("CMD ")[2])
        assert build.enter(stage, process, health, variables) == 0
        assert build.enter(stage, process, health, {**variables, "VLMOE_SERVE_PORT": "1"}) == 1
        assert build.enter(stage, process, ["touch", "/tmp/written"], {}) == 0
        libraries = "test -r /opt/vlmoe/kernels && for one in /opt/vlmoe/kernels/*.so; do test -r $one || exit 1; done"
        assert build.enter(stage, process, ["sh", "-c", libraries], {}) == 0
        for folder in ("/", "/opt/vlmoe", "/usr"):
            assert build.enter(stage, process, ["touch", f"{folder}/written"], {}) != 0, folder
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()


def _version_of(distribution):
    from importlib.metadata import version

    return version(distribution).partition("+")[0]


def _ready(client):
    with contextlib.suppress(httpx.TransportError):
        return client.get("/readyz").status_code == 200
    return False
