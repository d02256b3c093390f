"""The gRPC door, put together: our service, health and reflection on one port, behind one Exchange."""

import asyncio

import grpc
from grpc_reflection.v1alpha import reflection

from vlmoe_serve import __version__
from vlmoe_serve.catalog.model_admin import ModelAdmin
from vlmoe_serve.grpc_door.departures import quiet_departures
from vlmoe_serve.grpc_door.exchange import Exchange
from vlmoe_serve.grpc_door.health import HEALTH, Health
from vlmoe_serve.grpc_door.methods import SERVICE, vlmoe_handlers
from vlmoe_serve.grpc_door.open_inference import SERVICE as OPEN_INFERENCE
from vlmoe_serve.grpc_door.open_inference import open_inference_handlers
from vlmoe_serve.http_door.server import ListenError, listen
from vlmoe_serve.keys.access import Access
from vlmoe_serve.keys.admin_keys import AdminKeys
from vlmoe_serve.service import Service
from vlmoe_serve.tls import Tls

# of all connections together; what is over it is refused before it costs anything
_MAX_CALLS = 4096
_MAX_STREAMS = 1024
_LAST_ANSWERS_S = 1.0
_MINUTE_MS = 60_000
_HANDSHAKE_MS = 15_000


class GrpcServer:
    """Listens from birth, so that a taken port is known before anything is loaded; answers from `start` on.

    tls: None speaks in the clear.

    Raises:
        ListenError: the address cannot be listened on.
    """

    def __init__(
        self,
        service: Service,
        access: Access,
        admin: ModelAdmin,
        admin_keys: AdminKeys,
        host: str,
        port: int,
        *,
        max_body_bytes: int,
        max_connections: int,
        tls: Tls | None = None,
    ) -> None:
        self._draining = asyncio.Event()
        quiet_departures()
        methods = vlmoe_handlers(service, self._draining, max_body_bytes, admin, admin_keys)
        self._server = grpc.aio.server(
            interceptors=[Exchange(service, access)],
            options=_options(max_body_bytes, max_connections),
            maximum_concurrent_rpcs=_MAX_CALLS,
        )
        services = {
            SERVICE.full_name: methods,
            OPEN_INFERENCE.full_name: open_inference_handlers(service, __version__),
        }
        self._health = Health(service, tuple(services))
        services[HEALTH] = self._health.handlers()
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, handlers) for name, handlers in services.items()]
        )
        reflection.enable_server_reflection((*services, reflection.SERVICE_NAME), self._server)
        self._host = f"[{host}]" if ":" in host else host
        # gRPC says why it cannot listen in its log only; asked first, the system says it in a sentence
        listen(host, port).close()
        self._certificates = None if tls is None else _Certificates(tls)
        self.port = self._listen(port)

    @property
    def url(self) -> str:
        """Where it listens, as clients are told."""
        scheme = "grpc" if self._certificates is None else "grpcs"
        return f"{scheme}://{self._host}:{self.port}"

    async def start(self) -> None:
        """Answer calls."""
        await self._server.start()

    def drain(self) -> None:
        """Read nothing more from open streams; new calls are refused by the service's own `draining`."""
        self._draining.set()

    async def stop(self) -> None:
        """Send the last answers and close the connections."""
        self._health.close()
        await self._server.stop(_LAST_ANSWERS_S)

    def renew(self) -> None:
        """Show the certificate that the files hold now to new connections.

        Raises:
            UsageError: they do not belong together; the old one is shown.
        """
        if self._certificates is not None:
            self._certificates.renew()

    def _listen(self, port: int) -> int:
        where = f"{self._host}:{port}"
        try:
            if self._certificates is None:
                return self._server.add_insecure_port(where)
            return self._server.add_secure_port(where, self._certificates.credentials())
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {where}: {error}") from error


class _Certificates:
    """What the server shows at each handshake: that which the files held when they were last read."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._asks_callers = tls.client_ca is not None
        self._now = _configuration(tls)

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(self._now, lambda: self._now, self._asks_callers)

    def renew(self) -> None:
        self._tls.context()
        self._now = _configuration(self._tls)


def _configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    pem = tls.pem()
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.client_ca)


def _options(max_body_bytes: int, max_connections: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_allowed_incoming_connections", max_connections),
        # who connects says so soon, and who has nothing to say for long may come again
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", 10 * _MINUTE_MS),
        ("grpc.max_receive_message_length", max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", _MAX_STREAMS),
        # or two servers would share the port, each with half of the calls
        ("grpc.so_reuseport", 0),
        # a caller that is gone without a word is noticed
        ("grpc.keepalive_time_ms", _MINUTE_MS),
        ("grpc.keepalive_timeout_ms", 20_000),
        # callers may ask whether we are there, but not all the time
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 3),
    ]
