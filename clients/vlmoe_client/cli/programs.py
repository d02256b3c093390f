"""Commands that belong to other floors, imported only when they are run: the client itself needs no extra."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True, slots=True)
class Program:
    """Where a command lives.

    Attributes:
        help: One line for `vlmoe --help`.
        target: "module:function" of a `run(argv) -> int`.
        extra: What `pip install "vlmoe[extra]"` must have installed.
        shared: The function serves several commands and is given the command's name first.
    """

    help: str
    target: str
    extra: str
    shared: bool = False


PROGRAMS: dict[str, Program] = {
    "serve": Program("start the server", "vlmoe_serve.main:run", "serve"),
    "train": Program("train a model by a recipe", "vlmoe_train.cli:run", "train", shared=True),
    "eval": Program("a checkpoint's test metrics", "vlmoe_train.cli:run", "train", shared=True),
    "data": Program("fetch and list the recipes' data", "vlmoe_train.cli:run", "train", shared=True),
    "plan": Program(
        "place experts on ranks, by what a server recorded", "vlmoe_serve.placement.cli:run", "plan"
    ),
    "bench": Program(
        "how fast a model runs here, beside its dense twin and stock torch",
        "vlmoe_serve.bench.cli:run",
        "serve",
    ),
    "quantize": Program("a smaller checkpoint: experts in int8", "vlmoe_model.quantize:run", "model"),
    "inspect": Program("what a checkpoint holds", "vlmoe_model.inspect:run", "model"),
}


def run_program(name: str, argv: list[str]) -> int:
    """Import a program and run it, or say what is missing."""
    program = PROGRAMS[name]
    module, function = program.target.split(":")
    try:
        run = getattr(importlib.import_module(module), function)
        return int(run([name, *argv] if program.shared else argv))
    except ImportError as error:
        if sys.flags.dev_mode:
            raise
        missing = missing_requirements(program.extra)
        if missing and isinstance(error, ModuleNotFoundError):
            reason = f'needs {", ".join(missing)}, not installed here: pip install "vlmoe[{program.extra}]"'
            print(f"vlmoe {name}: {reason}", file=sys.stderr)
            return 2
        # everything the extra asks for is there, so the import itself is wrong
        reason = "this is a bug or a broken installation"
        where = f"`python -X dev -m vlmoe_client {name}` shows where"
        print(f"vlmoe {name}: {error}; {reason}; {where}", file=sys.stderr)
        return 1


def missing_requirements(extra: str) -> list[str]:
    """Names of the distributions that an extra asks for and that are not installed."""
    try:
        requirements = metadata.requires("vlmoe") or []
    except metadata.PackageNotFoundError:  # a source tree on the path, never installed
        return [f"vlmoe[{extra}]"]
    missing = []
    for requirement in requirements:
        # a marker with one more condition than the extra (a platform) may be rightly absent
        match = re.fullmatch(r"([\w.-]+)[^;]*;\s*extra\s*==\s*['\"]([\w.-]+)['\"]\s*", requirement)
        if match is not None and match.group(2) == extra and not _installed(match.group(1)):
            missing.append(match.group(1))
    return missing


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
