"""A server of our own for the time of a test: `vlmoe serve` on a free port, HTTP only."""

import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_READY = re.compile(r"ready on (http://\S+)")


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A running one. pid: of the front."""

    url: str
    pid: int

    def engine_pids(self) -> list[int]:
        """Its engine processes: one, but for a moment after the death of one."""
        found = []
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += [int(pid) for pid in (task / "children").read_text().split()]
        return found


@contextlib.contextmanager
def own_server(arguments: Sequence[str]) -> Iterator[OwnServer]:
    """Start it, say where it is, end it. Its data lies in a folder of its own unless the arguments name one.

    Raises:
        RuntimeError: it did not start.
    """
    vlmoe = str(Path(sys.executable).with_name("vlmoe"))
    command = [vlmoe, "serve", "--port", "0", "--grpc-port", "0"]
    with (
        tempfile.TemporaryDirectory() as data,
        subprocess.Popen(
            [*command, "--data-dir", data, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            found = next((match for line in process.stdout if (match := _READY.search(line))), None)
            if found is None:
                raise RuntimeError(f"the server did not start: {' '.join([*command, *arguments])}")
            yield OwnServer(found.group(1), process.pid)
        finally:
            process.terminate()
