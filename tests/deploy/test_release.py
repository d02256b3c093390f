"""What a release is made of: a wheel that serves, a chart, a bill of materials, and the workflows that make them."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

from vlmoe_serve.option_sources import parse_options

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def clean_environment():
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A new environment with the wheel. Its requirements are borrowed from the tests' own, torch is large."""
    folder = tmp_path_factory.mktemp("release")
    run = {"check": True, "env": clean_environment(), "timeout": 300, "capture_output": True}
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT], **run)
    (wheel,) = folder.glob("vlmoe-*.whl")
    home = folder / "environment"
    venv.create(home, with_pip=False)
    library = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--prefix", home, "--ignore-installed", wheel],
        **run,
    )
    (library / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


@pytest.mark.deploy
def test_the_wheel_serves(installed, serve, tmp_path):
    python = installed / "bin" / "python"
    where = "import vlmoe_serve, vlmoe_model; print(vlmoe_serve.__file__, vlmoe_model.__file__)"
    done = subprocess.run(
        [python, "-c", where],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert all(path.startswith(str(installed)) for path in done.stdout.split())
    server = serve(command=[str(installed / "bin" / "vlmoe"), "serve"], environment=clean_environment())
    asked = subprocess.run(
        [installed / "bin" / "vlmoe", "ask", ROOT / "docs/examples/shape.png", "what color is the shape?"],
        env={**clean_environment(), "VLMOE_URL": server.url},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=240,
    )
    assert asked.returncode == 0, asked.stderr
    assert "blue" in asked.stdout


@pytest.mark.deploy
def test_the_chart_is_packed_without_its_tests(helm, tmp_path):
    import tarfile

    done = helm("package", DEPLOY / "helm" / "vlmoe", "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "vlmoe-0.1.0.tgz") as packed:
        names = set(packed.getnames())
    assert {"vlmoe/values.schema.json", "vlmoe/files/dashboard.json", "vlmoe/README.md"} <= names
    assert not any(name.startswith("vlmoe/ci/") for name in names)


def test_versions_agree():
    import tomllib

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((DEPLOY / "helm" / "vlmoe" / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    assert (
        yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["vlmoe"]["image"]
        == f"vlmoe:{version}"
    )


def test_the_bill_names_every_package_of_the_image(load):
    bill = load(DEPLOY / "sbom.py").bill()
    pins = (DEPLOY / "docker" / "requirements.txt").read_text()
    names = {component["name"]: component for component in bill["components"]}
    assert set(names) == {*re.findall(r"^([a-z0-9.-]+)==", pins, re.MULTILINE), "torch"}
    assert all("hashes" in component for name, component in names.items() if name != "torch")
    assert bill == load(DEPLOY / "sbom.py").bill()


def test_workflows_call_targets_that_there_are():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in (ROOT / ".github" / "workflows").glob("*.yaml"):
        jobs = yaml.safe_load(path.read_text())["jobs"]
        steps = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
        called = {word for step in steps for word in re.findall(r"\bmake ([a-z-]+)", step)}
        assert called
        assert called <= targets
        for file in re.findall(r"\b(deploy/[\w./]+)", path.read_text()):
            assert (ROOT / file).exists(), file


def test_compose_says_what_the_server_takes():
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["vlmoe"]
    options = parse_options(service["command"][1:], service["environment"])
    assert {port.split(":")[-1] for port in service["ports"]} == {str(options.port), str(options.grpc_port)}
    assert int(service["stop_grace_period"].removesuffix("s")) > options.drain_s
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_the_unit_says_what_the_server_takes(tmp_path):
    text = (DEPLOY / "vlmoe.service").read_text()
    unit = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    config = tmp_path / "serve.yaml"
    config.write_text("max-body-mb: 8\n")
    command = unit["ExecStart"].replace("/etc/vlmoe/serve.yaml", str(config)).split()
    assert command[1] == "serve"
    options = parse_options(command[2:], {})
    assert options.max_body_mb == 8
    assert str(options.data_dir) == f"/var/lib/{unit['StateDirectory']}"
    assert int(unit["TimeoutStopSec"]) > options.drain_s
