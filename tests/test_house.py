"""Rules of the house that no tool of `make check` knows: imports at run time, versions, banned words."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import vlmoe_serve

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "vlmoe_kernels": ROOT / "kernels",
    "vlmoe_model": ROOT / "model",
    "vlmoe_train": ROOT / "train",
    "vlmoe_serve": ROOT / "serve",
    "vlmoe_client": ROOT / "clients",
}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = sorted(path for name, folder in PACKAGES.items() for path in (folder / name).rglob("*.py"))

# What a process imports that only prepares inputs. Torch's own places are the engine and the benchmarks.
TORCH_FREE_MODEL = [
    "vlmoe_model",
    "vlmoe_model.checkpoint.directory",
    "vlmoe_model.checkpoint.fingerprint",
    "vlmoe_model.config",
    "vlmoe_model.errors",
    "vlmoe_model.images",
    "vlmoe_model.inputs",
    "vlmoe_model.presets",
    "vlmoe_model.processor",
    "vlmoe_model.tokenizer",
]
TORCHS_PLACES = ("vlmoe_serve.engine", "vlmoe_serve.bench")

IMPORT_ALL_WITHOUT = """
import importlib, sys

blocked = set(sys.argv[1].split(","))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: {error}")
"""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(package: str, *, outside: tuple[str, ...] = ()) -> list[str]:
    names = [module_name(path) for path in SOURCES if path.name != "__main__.py"]
    return [
        name for name in names if name.split(".")[0] == package and not name.startswith(outside or ("-",))
    ]


@pytest.mark.parametrize(
    ("modules", "blocked"),
    [
        (modules_of("vlmoe_client"), "torch,numpy,vlmoe_kernels,vlmoe_model,vlmoe_serve,vlmoe_train"),
        (TORCH_FREE_MODEL, "torch"),
        (modules_of("vlmoe_serve", outside=TORCHS_PLACES), "torch"),
        (["vlmoe_train.cli", *modules_of("vlmoe_train.data")], "torch"),
    ],
    ids=["client", "model", "serve", "data"],
)
def test_what_must_stay_light_imports_without_the_heavy(modules, blocked):
    command = [sys.executable, "-c", IMPORT_ALL_WITHOUT, blocked, *modules]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_blocker_blocks():
    command = [sys.executable, "-c", IMPORT_ALL_WITHOUT, "torch", "vlmoe_model.network"]
    assert "torch" in subprocess.run(command, capture_output=True, text=True).stdout


def test_the_base_install_is_the_clients_alone():
    names = {Requirement(each).name for each in PYPROJECT["project"]["dependencies"]}
    assert names == {"httpx", "grpcio", "protobuf", "pillow"}


def test_the_command_says_the_version_of_the_project():
    vlmoe = Path(sys.executable).with_name("vlmoe")
    said = subprocess.run([vlmoe, "--version"], capture_output=True, text=True, check=True).stdout
    assert said == f"vlmoe {PYPROJECT['project']['version']}\n"
    assert vlmoe_serve.__version__ == PYPROJECT["project"]["version"]


def test_every_package_is_typed_and_nested():
    for name, folder in PACKAGES.items():
        assert (folder / name / "py.typed").is_file()
        assert not (folder / "__init__.py").exists()


def test_what_is_exported_exists():
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        bound: set[str] = set()
        exported: list[str] = []
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                bound.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                bound.add(node.id)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                exported = ast.literal_eval(node.value)
        assert set(exported) <= bound, path
        assert len(set(exported)) == len(exported), path


@pytest.mark.parametrize(
    "banned",
    [r"\bTODO\b", r"\bFIXME\b", r"raise NotImplementedError", r"type: ignore(?!\[)", r"pragma: no cover"],
)
def test_words_that_mean_unfinished_do_not_occur(banned):
    written = [path for path in SOURCES if "_pb2" not in path.name]
    found = [str(path.relative_to(ROOT)) for path in written if re.search(banned, path.read_text())]
    assert found == []


def test_the_changelog_has_an_unreleased_head():
    heads = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == "Unreleased"
