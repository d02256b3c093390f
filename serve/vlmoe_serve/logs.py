"""Logs: one line an event on stderr, whatever the event is. No content of requests."""

import logging
import sys


class OneLine(logging.Formatter):
    """Tracebacks and messages with line breaks are folded into their line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        return super().format(record).replace("\r", "").replace("\n", " | ")


def configure_logs() -> None:
    """Send our events from INFO on, and other libraries' warnings, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for ours in ("vlmoe_serve", "vlmoe_kernels"):
        logging.getLogger(ours).setLevel(logging.INFO)
