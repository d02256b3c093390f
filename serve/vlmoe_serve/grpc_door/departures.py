"""Callers who leave while something is sent to them, where gRPC and not we see the failure.

Our own methods end quietly (`exchange.py`). Health and reflection have no such layer, and an error that is sent as the
end of a call is out of its reach: gRPC reports those as failures of a handler, with a traceback, though nothing failed.
"""

import logging

import grpc

_LOGGER = "grpc._cython.cygrpc"


class _Departures(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record says anything but that nothing could be sent any more."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        return not isinstance(error, grpc.aio.InternalError)


_DEPARTURES = _Departures()


def quiet_departures() -> None:
    """From now on gRPC's log has no tracebacks of callers who left."""
    logging.getLogger(_LOGGER).addFilter(_DEPARTURES)
