"""A server from its first answer to its last: starting, ready, draining, ended.

    the doors answer (not ready) -> engines load -> ready -> SIGTERM -> drain -> the doors close

The first SIGTERM or SIGINT drains; the second ends the process at once.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from vlmoe_serve.catalog.model_admin import ModelAdmin
from vlmoe_serve.engine.failures import EngineStartError
from vlmoe_serve.file_watch import Watched, watch
from vlmoe_serve.grpc_door.server import GrpcServer
from vlmoe_serve.http_door.server import HttpServer, url_of
from vlmoe_serve.service import Service

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Callers on a kept connection may have a request on its way while the last answer leaves.
_LAST_REFUSALS_S = 0.05
# Objects that are in the garbage collector's care before it looks at the youngest: some hundred requests.
_COLLECT_AFTER = 10_000
# Refusals of what was not answered in time need no longer than this to be sent.
_LAST_ANSWERS_S = 1.0


class StartError(RuntimeError):
    """The server cannot start; one line for the user."""


async def live(
    service: Service,
    admin: ModelAdmin,
    server: HttpServer,
    listener: socket.socket,
    grpc_server: GrpcServer | None,
    drain_s: float,
    watched: Sequence[Watched],
) -> None:
    """Start the engines, answer until a signal says otherwise, drain, and close the doors.

    Raises:
        StartError: an engine does not start.
    """
    asked_to_end, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, _on_signal, service, asked_to_end, number)
    loop.add_signal_handler(signal.SIGHUP, hurry.set)
    watching = asyncio.create_task(watch(watched, hurry))
    where = url_of(listener, tls=server.config.ssl is not None)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    if grpc_server is not None:
        await grpc_server.start()
        where += f" and {grpc_server.url}"
    ending = asyncio.create_task(asked_to_end.wait())
    try:
        await _until_first(_start(service, where), ending)
        if not asked_to_end.is_set():
            await asyncio.wait((ending, serving), return_when=asyncio.FIRST_COMPLETED)
        service.draining = True
        if grpc_server is not None:
            grpc_server.drain()
        await _drain(service, admin, server, drain_s)
    finally:
        service.draining = True
        ending.cancel()
        if grpc_server is not None:
            await grpc_server.stop()
        watching.cancel()
        server.end()
        await serving
        for number in (*_SIGNALS, signal.SIGHUP):
            loop.remove_signal_handler(number)


async def _start(service: Service, where: str) -> None:
    start_s = time.monotonic()
    try:
        await asyncio.gather(*(model.batcher.start() for model in service.models))
    except EngineStartError as error:
        raise StartError(str(error)) from error
    for model in service.models:
        info = model.batcher.info
        service.metrics.on_model(model.name, info)
        print(
            f"model {model.name}: {info.model_id}, {info.num_parameters} parameters, "
            f"{info.dtype} on {info.device}, kernels {info.backend}"
        )
    _collect_rarely()
    service.engines_started()
    print(f"vlmoe is ready on {where} after {time.monotonic() - start_s:.1f} s", flush=True)


def _collect_rarely() -> None:
    # what has been imported and opened stays: walking over it again and again takes a tenth of the loop's time
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


async def _until_first(work: Coroutine[Any, Any, None], ending: asyncio.Task[bool]) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.wait((task, ending), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    else:
        task.cancel()
        await asyncio.wait((task,))


async def _drain(service: Service, admin: ModelAdmin, server: HttpServer, drain_s: float) -> None:
    start_s = time.monotonic()
    idle = await service.in_flight.ended(drain_s)
    level = logging.INFO if idle else logging.WARNING
    _log.log(level, "drained in %.2f s, %d requests left", time.monotonic() - start_s, service.in_flight.num)
    if not idle:
        admin.give_up()
        await stop_engines(service)
        if not await service.in_flight.ended(_LAST_ANSWERS_S):
            # those who have not sent their body, or do not take their answer
            server.hang_up()
            await service.in_flight.ended(_LAST_ANSWERS_S)
    await asyncio.sleep(_LAST_REFUSALS_S)


async def stop_engines(service: Service) -> None:
    """Of all models; whoever still waits is refused."""
    await asyncio.gather(*(model.batcher.stop() for model in service.models))


def _on_signal(service: Service, asked_to_end: asyncio.Event, number: int) -> None:
    if not asked_to_end.is_set():
        _log.info("%s: no new requests, %d in flight", signal.Signals(number).name, service.in_flight.num)
        service.draining = True
        asked_to_end.set()
        return
    _log.warning("%s again: ending at once", signal.Signals(number).name)
    for model in service.models:
        if model.batcher.engine_pid is not None:
            os.kill(model.batcher.engine_pid, signal.SIGKILL)
    os._exit(128 + number)
