"""`vlmoe serve`: from the command line to an exit code."""

import asyncio
import os
import sys
from collections.abc import Sequence

from vlmoe_serve.lifecycle import serve
from vlmoe_serve.living import StartError
from vlmoe_serve.logs import configure_logs
from vlmoe_serve.node_lifecycle import serve_node
from vlmoe_serve.nodes import rendezvous_of
from vlmoe_serve.option_sources import UsageError, parse_options

# How long a thread that wants the interpreter waits for the one that has it. Pictures are decoded in pieces that let go
# of it; Python's own 5 ms, after each piece, would be longer than all of the pieces together.
_SWITCH_S = 0.0005


def run(argv: Sequence[str]) -> int:
    """Serve until a signal; 0 after a drain, 1 when the server cannot start, 2 for bad usage."""
    try:
        options = parse_options(argv, os.environ)
    except UsageError as error:
        return _failed(error, 2)
    configure_logs(options.log_format)
    sys.setswitchinterval(_SWITCH_S)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            where = rendezvous_of(options)
            if where is None or where.node == 0:
                runner.run(serve(options))
            else:
                runner.run(serve_node(options, where))
    except UsageError as error:
        return _failed(error, 2)
    except StartError as error:
        return _failed(error, 1)
    return 0


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        # not made for Windows; the standard loop serves as well, only slower
        return None
    return uvloop.Loop


def _failed(error: Exception, code: int) -> int:
    print(f"vlmoe serve: {' '.join(str(error).split())}", file=sys.stderr)
    return code
