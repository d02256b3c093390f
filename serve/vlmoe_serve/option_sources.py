"""Where the values of the options come from, the strongest first.

    --max-body-mb 8    VLMOE_SERVE_MAX_BODY_MB=8    max-body-mb: 8 in --config FILE.yaml    the default

Only this file reads options from the environment. A name that is not defined is refused, so that a typing
mistake never goes unnoticed.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from vlmoe_serve.option_readers import switch
from vlmoe_serve.options import DEFAULTS, OPTIONS, Options

ENV_PREFIX = "VLMOE_SERVE_"


class UsageError(ValueError):
    """Bad usage, as one line for the user."""


def parse_options(argv: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Read the options from the command line, the environment and the file that either of them names.

    Raises:
        UsageError: an unknown name or a value that is not allowed, and where it stands.
        SystemExit: after --help.
    """
    flags = vars(_parser().parse_args(list(argv)))
    variables = {name: text for name, text in environ.items() if name.startswith(ENV_PREFIX)}
    config = flags.pop("config", variables.pop(f"{ENV_PREFIX}CONFIG", None))
    values: dict[str, Any] = {}
    if config:
        values |= _from_file(Path(config))
    values |= _from_variables(variables)
    for name, given in flags.items():
        values[name] = _read(name, given, f"--{_dashed(name)}")
    options = Options(**values)
    names = [choice.name for choice in options.model]
    if len(set(names)) != len(names):
        raise UsageError(f"two models share a name: {', '.join(names)}; give NAME=PATH")
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vlmoe serve",
        description="Serve checkpoints over HTTP.",
        epilog=f"Every option is also a variable ({ENV_PREFIX}MAX_BODY_MB=8) and a key of the file.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, option in OPTIONS.items():
        extra: dict[str, Any] = {"action": "extend", "nargs": "+"} if option.many else {}
        default = option.shown or getattr(DEFAULTS, name)
        parser.add_argument(
            f"--{_dashed(name)}", metavar=option.metavar, help=f"{option.help} (default: {default})", **extra
        )
    parser.add_argument("--config", metavar="FILE.yaml", help="a file of these options")
    return parser


def _from_variables(variables: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for variable, text in variables.items():
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name not in OPTIONS or variable != variable.upper():
            raise UsageError(f"unknown variable {variable}; options are {_known()}")
        given: object = text.split(",") if OPTIONS[name].many else text
        values[name] = _read(name, given, variable)
    return values


class _Loader(yaml.SafeLoader):
    """A key that stands twice is no second thought: YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # before anchors are merged in: those may be overridden
        keys = [key.value for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.YAMLError(f"{key!r} is given twice")
        return super().construct_mapping(node, deep)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        # a safe loader with one more check
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        # the name of the file is said already
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(f"{path}: cannot be read: {' '.join(reason.split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must hold `option: value` lines, got {type(content).__name__}")
    values: dict[str, Any] = {}
    for key, given in content.items():
        name = str(key).replace("-", "_")
        if name not in OPTIONS:
            raise UsageError(f"{path}: unknown key {key!r}; options are {_known()}")
        if name in values:
            raise UsageError(f"{path}: {key!r} is given twice")
        values[name] = _read(name, given, f"{path}: {key}")
    return values


def _read(name: str, given: object, where: str) -> object:
    """One value, or the list of values of an option that takes many, from text or from YAML."""
    option = OPTIONS[name]
    items = given if isinstance(given, list) else [given]
    if not items or (len(items) > 1 and not option.many):
        raise UsageError(f"{where}: takes one value, got {len(items)}")
    parsed = []
    for item in items:
        if isinstance(item, bool) and option.read is switch:
            # what YAML makes of on and off
            item = "on" if item else "off"
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            raise UsageError(f"{where}: takes a text or a number, got {item!r}")
        try:
            parsed.append(option.read(str(item).strip()))
        except ValueError as error:
            raise UsageError(f"{where}: {error}, got {str(item)!r}") from None
    return tuple(parsed) if option.many else parsed[0]


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _known() -> str:
    return ", ".join(_dashed(name) for name in OPTIONS)
