"""A server process: what it is made of, put together and taken apart again.

    open files -> listen -> put it together -> live (`living.py`) -> stop engines

Whatever fails before the server is ready ends it with one line.
"""

import asyncio
from functools import partial

from vlmoe_model.errors import CheckpointError
from vlmoe_serve.brownout import Brownout, Thresholds
from vlmoe_serve.catalog import opening
from vlmoe_serve.catalog.model_admin import ModelAdmin
from vlmoe_serve.catalog.models import Models
from vlmoe_serve.cores import encode_threads
from vlmoe_serve.encoding.encode import EncodePool
from vlmoe_serve.encoding.url_images import UrlImages
from vlmoe_serve.engine.chosen import check_engine
from vlmoe_serve.file_watch import Watched
from vlmoe_serve.grpc_door.server import GrpcServer
from vlmoe_serve.http_door.app import create_app, create_ways
from vlmoe_serve.http_door.connection import ConnectionLimits
from vlmoe_serve.http_door.server import HttpServer, ListenError, listen
from vlmoe_serve.keys.access import Access
from vlmoe_serve.keys.admin_keys import AdminKeys
from vlmoe_serve.keys.api_keys import ApiKeys
from vlmoe_serve.keys.key_limits import KeyLimits
from vlmoe_serve.living import StartError, live, stop_engines
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
    if options.model_root is not None and not admin_keys:
        raise UsageError("--model-root needs --admin-key-file: models are loaded with an admin's key alone")
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
        encode_pool = EncodePool(encode_threads(on_gpus=False))
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
            limits=ConnectionLimits(options.max_connections, on_refusal=metrics.on_connection_refused),
            ways=create_ways(service, access, max_body_bytes=options.max_body_bytes),
        )
        metrics.watch_one("connections", "Open connections to the HTTP door.", lambda: server.num_connections)
        try:
            grpc_server = _grpc_server(options, service, access, admin, admins, tls)
            if tls is not None and grpc_server is not None:
                watched.append(Watched(tls.files, grpc_server.renew))
            await live(service, admin, server, listener, grpc_server, options.drain_s, watched)
        finally:
            await stop_engines(service)
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
            max_connections=options.max_connections,
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
