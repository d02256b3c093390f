"""Logs: one line an event on stderr, whatever the event is. No content of requests.

As text for people, or as JSON for programs: `{"time", "level", "logger", "message"}`, and for the line of a request
also `method`, `route`, `status`, `ms` and `request_id`. A module adds fields of its own with `extra={"data": {...}}`.
"""

import asyncio
import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import TextIO

# how long a line of the event loop may wait for others to be written with
_SOON_S = 0.05


class TogetherHandler(logging.StreamHandler[TextIO]):
    """Lines of one moment in one write. Warnings, and what other threads have to say, are written at once.

    Every write lets go of the interpreter, and a busy event loop waits for it until a worker thread gives it back.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take in a line."""
        try:
            self._lines.append(self.format(record) + self.terminator)
            if record.levelno >= logging.WARNING:
                self.flush()
            elif len(self._lines) == 1:
                self._flush_soon()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write what there is."""
        with self.lock:  # type: ignore[union-attr]
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
            super().flush()

    def _flush_soon(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
        else:
            loop.call_later(_SOON_S, self.flush)


class OneLine(logging.Formatter):
    """Tracebacks and messages with line breaks are folded into their line."""

    def __init__(self, layout: str) -> None:
        super().__init__(layout)
        self._second = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        return super().format(record).replace("\r", "").replace("\n", " | ")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """As its parent does, which takes its time; most lines are of the second of the line before."""
        second = int(record.created)
        if second != self._second[0]:
            self._second = second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._second[1]},{int(record.msecs):03d}"


class JsonLine(logging.Formatter):
    """One JSON object a line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one object."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        fields |= getattr(record, "data", {})
        return json.dumps(fields, default=str)


def configure_logs(kind: str = "text") -> None:
    """Send our events from INFO on, and other libraries' warnings, to stderr, as "text" or "json"."""
    # what no line of ours shows need not be looked up: "Optimization" in Python's logging HOWTO
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = TogetherHandler(sys.stderr)
    handler.setFormatter(
        JsonLine() if kind == "json" else OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for ours in ("vlmoe_serve", "vlmoe_kernels"):
        logging.getLogger(ours).setLevel(logging.INFO)
