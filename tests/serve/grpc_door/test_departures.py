"""What gRPC's log says, and does not say, of callers who leave."""

import asyncio
import logging

import grpc
import pytest
from grpc._cython import cygrpc

from vlmoe_serve.grpc_door.departures import quiet_departures


@pytest.fixture
def log(caplog):
    quiet_departures()
    quiet_departures()
    return logging.getLogger("grpc._cython.cygrpc")


def test_whoever_left_is_no_failure(log, caplog):
    for error in (cygrpc.ExecuteBatchError("nobody is there"), cygrpc.InternalError("nor here")):
        try:
            raise error
        except grpc.aio.InternalError:
            log.exception("Unexpected [%s] raised by servicer method [Check]", type(error).__name__)
    assert not caplog.records


def test_everything_else_is_shown(log, caplog):
    for error in (ValueError("ours"), asyncio.InvalidStateError("theirs"), grpc.aio.UsageError("ours too")):
        try:
            raise error
        except Exception:
            log.exception("Unexpected [%s] raised by servicer method [Check]", type(error).__name__)
    log.error("a line without an exception")
    log.exception("one that was logged where none was handled")
    assert len(caplog.records) == 5
