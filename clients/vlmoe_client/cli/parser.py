"""The argument parser: one sub-parser a command, and a line of help for each program of another floor."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import NoReturn

from .._version import __version__
from .commands import Command
from .programs import Program


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # one line: the usage in front of it is what --help is for
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser(commands: Mapping[str, Command], programs: Mapping[str, Program]) -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="vlmoe",
        description="Serve vision-language mixture-of-experts models, and talk to a server.",
        epilog="`vlmoe COMMAND --help` says more.",
    )
    parser.add_argument("--version", action="version", version=f"vlmoe {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, program in programs.items():
        # listed only: `main` hands these over before anything is parsed
        subparsers.add_parser(name, help=program.help, add_help=False)
    for name, command in commands.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.description)
        command.arguments(subparser)
        _add_connection(subparser)
    return parser


def _add_connection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the server")
    group.add_argument("--url", help="default: the environment's VLMOE_URL, else http://127.0.0.1:8000")
    group.add_argument("--api-key", metavar="KEY", help="default: the environment's VLMOE_API_KEY")
    group.add_argument("--model", metavar="NAME", help="where the server has several")
    group.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="seconds for a request, default 60"
    )
    group.add_argument("--json", action="store_true", help="print the whole result as JSON")
