"""The life of a server process: open, listen, load, serve, drain, end.

    open files -> listen -> the doors answer (not ready) -> engines load -> ready -> SIGTERM -> drain -> stop engines

Whatever fails before the server is ready ends it with one line. The first SIGTERM or SIGINT drains; the second ends
the process at once.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from vlmoe_model.errors import CheckpointError
from vlmoe_serve.brownout import Brownout, Thresholds
from vlmoe_serve.catalog import opening
from vlmoe_serve.catalog.model_admin import ModelAdmin
from vlmoe_serve.catalog.models import Models
from vlmoe_serve.cores import num_cores
from vlmoe_serve.encoding.encode import EncodePool
from vlmoe_serve.encoding.url_images import UrlImages
from vlmoe_serve.engine.chosen import check_engine
from vlmoe_serve.engine.failures import EngineStartError
from vlmoe_serve.file_watch import Watched, watch
from vlmoe_serve.grpc_door.server import GrpcServer
from vlmoe_serve.http_door.app import create_app, create_turnstile
from vlmoe_serve.http_door.connection import ConnectionLimits
from vlmoe_serve.http_door.server import HttpServer, ListenError, listen, url_of
from vlmoe_serve.keys.access import Access
from vlmoe_serve.keys.admin_keys import AdminKeys
from vlmoe_serve.keys.api_keys import ApiKeys
from vlmoe_serve.keys.key_limits import KeyLimits
from vlmoe_serve.metrics import Metrics
from vlmoe_serve.option_readers import ANY_PORT
from vlmoe_serve.option_sources import UsageError
from vlmoe_serve.options import Options
from vlmoe_serve.placement.placement import PlacementError
from vlmoe_serve.retrieval.manager import Collections
from vlmoe_serve.retrieval.store import StoreError
from vlmoe_serve.service import Limits, Service
from vlmoe_serve.telemetry.trace import Traces, open_traces
from vlmoe_serve.tls import Tls

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


async def serve(options: Options) -> None:
    """Serve until a signal says otherwise.

    Raises:
        StartError: anything that keeps the server from being ready.
    """
    try:
        check_engine(options)
    except ValueError as error:
        raise UsageError(str(error)) from None
    keys = ApiKeys.load(options.api_key_file)
    shares = KeyLimits(options.max_key_concurrency, options.max_key_rate)
    if shares and not keys:
        raise UsageError("--max-key-concurrency and --max-key-rate need --api-key-file")
    tls = Tls.given(options.tls_cert, options.tls_key, options.tls_client_ca)
    context = None if tls is None else tls.context()
    traces = _open_traces(options)
    admin_keys = ApiKeys.load(options.admin_key_file)
    metrics = Metrics()
    access = Access(keys, shares, metrics)
    watched = [Watched((each.path,), each.reload) for each in (keys, admin_keys) if each.path is not None]
    if tls is not None and context is not None:
        watched.append(Watched(tls.files, partial(tls.renew, context)))

    try:
        models = opening.open_models(options, metrics)
        listener = listen(options.host, options.port)
    except (CheckpointError, PlacementError, ListenError) as error:
        raise StartError(str(error)) from error
    with listener:
        try:
            collections = Collections(options.data_dir)
        except StoreError as error:
            raise StartError(str(error)) from error
        encode_pool = EncodePool(max(1, min(4, num_cores() // 2)))
        limits = Limits(max_image_pixels=options.max_image_pixels)
        service = Service(
            Models(models),
            collections,
            encode_pool,
            limits,
            metrics,
            cache_bytes=options.cache_bytes,
            url_images=UrlImages(
                options.allow_url_host, max_bytes=options.max_body_bytes, on_fetched=metrics.on_fetched
            ),
            traces=traces,
            brownout=_brownout(options, metrics),
        )
        # whoever holds a model keeps its engine
        models.clear()
        _watch(service)
        admin = ModelAdmin(service, partial(opening.open_beside, options, metrics), options.model_root)
        admins = AdminKeys(admin_keys, keys)
        server = HttpServer(
            create_app(
                service,
                access,
                max_body_bytes=options.max_body_bytes,
                admin=admin,
                admin_keys=admins,
            ),
            tls=context,
            limits=ConnectionLimits(
                options.max_connections,
                on_refusal=metrics.on_connection_refused,
                turnstile=create_turnstile(service, access, max_body_bytes=options.max_body_bytes),
            ),
        )
        metrics.watch_one("connections", "Open connections to the HTTP door.", lambda: server.num_connections)
        try:
            grpc_server = _grpc_server(options, service, access, admin, admins, tls)
            if tls is not None and grpc_server is not None:
                watched.append(Watched(tls.files, grpc_server.renew))
            await _live(service, server, listener, grpc_server, options.drain_s, watched)
        finally:
            await _stop_engines(service)
            await admin.close()
            encode_pool.close()
            collections.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)


def _open_traces(options: Options) -> Traces | None:
    try:
        return open_traces(options.otlp)
    except ImportError:
        raise UsageError(
            'option --otlp needs OpenTelemetry, not installed here: pip install "vlmoe[otel]"'
        ) from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def _grpc_server(
    options: Options,
    service: Service,
    access: Access,
    admin: ModelAdmin,
    admin_keys: AdminKeys,
    tls: Tls | None,
) -> GrpcServer | None:
    if options.grpc_port == 0:
        return None
    port = 0 if options.grpc_port == ANY_PORT else options.grpc_port
    try:
        return GrpcServer(
            service,
            access,
            admin,
            admin_keys,
            options.host,
            port,
            max_body_bytes=options.max_body_bytes,
            tls=tls,
        )
    except ListenError as error:
        raise StartError(str(error)) from error


def _brownout(options: Options, metrics: Metrics) -> Brownout | None:
    if options.brownout_mode is None:
        return None
    return Brownout(options.brownout_mode, Thresholds.of(options.max_queue_ms), metrics.on_brownout)


def _watch(service: Service) -> None:
    watch = service.metrics.watch
    watch(
        "queue_depth",
        "Inputs that wait for a batch.",
        "model",
        lambda: {m.name: m.batcher.num_waiting for m in service.models},
    )
    watch(
        "predicted_wait_seconds",
        "How long an input of the normal class that came now would wait for its batch.",
        "model",
        lambda: {m.name: m.batcher.wait_ms() / 1000 for m in service.models},
    )
    watch(
        "engine_up",
        "1 while the engine process is up.",
        "model",
        lambda: {m.name: m.batcher.alive for m in service.models},
    )
    watch("brownout", "1 while a model answers in a cheaper routing mode.", "model", service.browned_out)
    service.metrics.watch_caches(
        lambda: {"images": service.pictures.stats, "embeddings": service.embeddings.stats}
    )
    watch("collection_items", "Items in a collection.", "collection", service.collections.sizes)


async def _live(
    service: Service,
    server: HttpServer,
    listener: socket.socket,
    grpc_server: GrpcServer | None,
    drain_s: float,
    watched: Sequence[Watched],
) -> None:
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
        await _drain(service, drain_s)
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
    service.started = True
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


async def _drain(service: Service, drain_s: float) -> None:
    start_s = time.monotonic()
    idle = await service.in_flight.ended(drain_s)
    level = logging.INFO if idle else logging.WARNING
    _log.log(level, "drained in %.2f s, %d requests left", time.monotonic() - start_s, service.in_flight.num)
    if not idle:
        await _stop_engines(service)
        await service.in_flight.ended(_LAST_ANSWERS_S)
    await asyncio.sleep(_LAST_REFUSALS_S)


async def _stop_engines(service: Service) -> None:
    """Whoever still waits is refused."""
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
