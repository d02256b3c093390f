"""The `vlmoe` command. Exit code 0 for success, 1 for a failed job, 2 for bad usage with one line on stderr.

main -> a program of another floor (`programs`), or a command that talks to a server (`commands`)
"""

from __future__ import annotations

import os
import sys

from .commands import COMMANDS, run_command
from .parser import build_parser
from .programs import PROGRAMS, run_program

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run one command line and give its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in PROGRAMS:
            code = run_program(argv[0], argv[1:])
        else:
            code = run_command(build_parser(COMMANDS, PROGRAMS).parse_args(argv))
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: --help, --version, bad usage
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader of our output has gone; Python's own flush at exit must find somewhere to write
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
