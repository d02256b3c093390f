"""A server of our own for the time of a test: `vlmoe serve` on a free port, HTTP only."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_READY = re.compile(r"ready on (http://\S+)")


@contextlib.contextmanager
def own_server(arguments: Sequence[str]) -> Iterator[str]:
    """Start it, give its URL, end it.

    Raises:
        RuntimeError: it did not start.
    """
    vlmoe = str(Path(sys.executable).with_name("vlmoe"))
    command = [vlmoe, "serve", "--port", "0", "--grpc-port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            found = next((match for line in process.stdout if (match := _READY.search(line))), None)
            if found is None:
                raise RuntimeError(f"the server did not start: {' '.join(command)}")
            yield found.group(1)
        finally:
            process.terminate()
