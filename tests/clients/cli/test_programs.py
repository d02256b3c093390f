"""Commands of other floors: found, passed through, or named with their extra when that is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from vlmoe_client.cli import main
from vlmoe_client.cli.programs import PROGRAMS, missing_requirements

ROOT = Path(__file__).parents[3]
FOLDERS = ["kernels", "model", "train", "serve", "clients"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a base install has beside our packages: the client's dependencies and no others."""
    site = tmp_path_factory.mktemp("bare")
    wanted, found = ["vlmoe"], set()
    while wanted:
        distribution = metadata.distribution(wanted.pop())
        if distribution.metadata["Name"] in found:
            continue
        found.add(distribution.metadata["Name"])
        requirements = [Requirement(each) for each in distribution.requires or ()]
        wanted += [
            each.name for each in requirements if not each.marker or each.marker.evaluate({"extra": ""})
        ]
        for top in {str(file).split("/")[0] for file in distribution.files or ()}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and top != ".." and source.suffix != ".pth" and not (site / top).exists():
                (site / top).symlink_to(source)
    return site


def in_bare(bare: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    folders = [str(ROOT / folder) for folder in FOLDERS]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(bare), *folders])}
    return subprocess.run([sys.executable, "-S", *argv], env=environment, capture_output=True, text=True)


def test_a_base_install_has_the_client_and_nothing_heavy(bare):
    code = """
        import importlib.util, vlmoe_client, vlmoe_client.cli
        assert importlib.util.find_spec("torch") is None
        assert importlib.util.find_spec("numpy") is None
        with vlmoe_client.Client("http://127.0.0.1:1") as client:
            print(client)
    """
    done = in_bare(bare, "-c", textwrap.dedent(code))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("serve", []),
        ("train", ["--recipe", "demo", "--out", "never"]),
        ("eval", ["--model", "demo", "--recipe", "demo"]),
        ("inspect", ["demo"]),
    ],
)
def test_a_missing_extra_is_named(bare, name, arguments):
    done = in_bare(bare, "-m", "vlmoe_client", name, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"vlmoe {name}: needs ")
    assert "torch" in done.stderr
    assert done.stderr.endswith(f'pip install "vlmoe[{PROGRAMS[name].extra}]"\n')


def test_help_lists_every_command_without_any_extra(bare):
    done = in_bare(bare, "-m", "vlmoe_client", "--help")
    assert done.returncode == 0
    for name in [*PROGRAMS, "ask", "classify", "search", "add"]:
        assert f"\n    {name} " in done.stdout


def test_a_bug_in_our_own_package_is_not_called_a_missing_extra(tmp_path):
    package = tmp_path / "vlmoe_serve"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text("import vlmoe_serve.misspelt\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "vlmoe_client", "serve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("vlmoe serve: No module named 'vlmoe_serve.misspelt'; this is a bug")
    assert done.stderr.count("\n") == 1
    assert "pip install" not in done.stderr

    command.insert(1, "-Xdev")
    shown = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr


def test_arguments_are_passed_on_and_the_exit_code_comes_back(tmp_path):
    for package, module in (("vlmoe_serve", "main"), ("vlmoe_train", "cli")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / f"{module}.py").write_text("def run(argv):\n    print(argv)\n    return 7\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*argv: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "vlmoe_client", *argv]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout

    assert run("serve", "--port", "1", "--help") == (7, "['--port', '1', '--help']\n")
    assert run("eval", "--model", "demo") == (7, "['eval', '--model', 'demo']\n")


def test_a_program_that_exits_with_words_says_them(tmp_path):
    package = tmp_path / "vlmoe_serve"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text("import sys\ndef run(argv):\n    sys.exit('port 1 is taken')\n")
    command = [sys.executable, "-m", "vlmoe_client", "serve"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "port 1 is taken\n")


def test_nothing_is_missing_here():
    assert all(missing_requirements(program.extra) == [] for program in PROGRAMS.values())


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vlmoe {metadata.version('vlmoe')}\n"
    assert shutil.which("vlmoe", path=str(Path(sys.executable).parent)) is not None
