"""The line that every request has in the log."""

import logging

_log = logging.getLogger("vlmoe_serve.access")


def log_answer(method: str, route: str, status: int, seconds: float, request_id: str) -> None:
    """One request was answered. route: its pattern, not its path: names that users chose stay out of the log."""
    ms = round(1000 * seconds, 1)
    data = {"method": method, "route": route, "status": status, "ms": ms, "request_id": request_id}
    _log.info("%s %s %d %.1f ms id=%s", method, route, status, ms, request_id, extra={"data": data})
