"""The life of a node without doors: `vlmoe serve --node-rank I`, I from 1.

    health answers -> the agent joins and joins anew -> SIGTERM -> wait for node 0 to end -> end

It says over HTTP what an orchestrator asks, and nothing else: `/healthz`, and `/readyz` once all ranks of the group
have loaded. Node 0 drains; this node stays with it until it is done, for as long as its own drain may take.
"""

import asyncio
import logging
import os
import signal
import threading
import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.errors import CheckpointError
from vlmoe_serve.cores import share
from vlmoe_serve.engine.base import EngineOptions, Rendezvous
from vlmoe_serve.engine.nodes.agent import Agent, NodeRefused
from vlmoe_serve.errors import EngineUnavailable, MethodNotAllowed, NotFound, ServeError
from vlmoe_serve.http_door.connection import ConnectionLimits
from vlmoe_serve.http_door.errors import error_response
from vlmoe_serve.http_door.json import json_response
from vlmoe_serve.http_door.server import HttpServer, ListenError, listen, url_of
from vlmoe_serve.living import StartError
from vlmoe_serve.option_sources import UsageError
from vlmoe_serve.options import Options
from vlmoe_serve.tls import Tls

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOK_EACH_S = 0.05


async def serve_node(options: Options, where: Rendezvous) -> None:
    """Run this node's ranks until a signal says otherwise.

    Raises:
        StartError: node 0 refuses this node, or the checkpoint cannot be read; one line.
    """
    tls = Tls.given(options.tls_cert, options.tls_key, options.tls_client_ca)
    try:
        path = open_directory(options.model[0].path).path
        listener = listen(options.host, options.port)
    except (CheckpointError, ListenError) as error:
        raise StartError(str(error)) from error
    engine = EngineOptions(
        path=path,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads or share(max(1, options.ranks // options.nodes)),
        ranks=options.ranks,
        rendezvous=where,
    )
    try:
        agent = Agent(engine, where)
    except ValueError as error:
        listener.close()
        raise UsageError(str(error)) from error
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    thread = threading.Thread(target=_run, args=(agent, ended, asyncio.get_running_loop()), daemon=True)
    health = _Health(agent)
    server = HttpServer(
        health,
        tls=None if tls is None else tls.context(),
        limits=ConnectionLimits(options.max_connections, on_refusal=lambda reason: None),
    )
    asked_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, _on_signal, asked_to_end, number)
    with listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        print(
            f"vlmoe node {where.node} of {where.num_nodes}: health at {url_of(listener, tls=tls is not None)}",
            flush=True,
        )
        thread.start()
        ending = asyncio.create_task(asked_to_end.wait())
        try:
            await asyncio.wait((ending, ended), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                health.ending = True
                await _until_node_0_has_ended(agent, options.drain_s)
                agent.stop()
            await ended
        finally:
            ending.cancel()
            server.end()
            await serving
            for number in _SIGNALS:
                loop.remove_signal_handler(number)


class _Health:
    """The answers, as an ASGI application."""

    def __init__(self, agent: Agent) -> None:
        self.ending = False
        self._agent = agent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            try:
                response = self._answer(request.method, request.url.path)
            except ServeError as error:
                response = error_response(error, path=request.url.path)
            await response(scope, receive, send)

    def _answer(self, method: str, path: str) -> Response:
        if path not in ("/healthz", "/readyz"):
            raise NotFound("this node computes for node 0, whose doors take requests")
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{method} is not allowed here, GET is")
        state = self._agent.state
        if path == "/readyz" and (self.ending or not state.ready):
            raise EngineUnavailable("this node is ending" if self.ending else state.text)
        return json_response({"status": "ok" if path == "/healthz" else "ready"})


def _run(agent: Agent, ended: "asyncio.Future[None]", loop: asyncio.AbstractEventLoop) -> None:
    def tell(error: Exception | None) -> None:
        if not ended.done():
            ended.set_result(None) if error is None else ended.set_exception(error)

    failure: Exception | None = None
    try:
        agent.run()
    except (NodeRefused, ValueError) as error:
        failure = StartError(str(error))
    except Exception as error:
        failure = error
    loop.call_soon_threadsafe(tell, failure)


async def _until_node_0_has_ended(agent: Agent, drain_s: float) -> None:
    """Its requests in flight still need this node's ranks."""
    end_s = time.monotonic() + drain_s
    while agent.connected and time.monotonic() < end_s:
        await asyncio.sleep(_LOOK_EACH_S)


def _on_signal(asked_to_end: asyncio.Event, number: int) -> None:
    if asked_to_end.is_set():
        # the ranks go with this process
        _log.warning("%s again: ending at once", signal.Signals(number).name)
        os._exit(128 + number)
    _log.info("%s: ending with node 0", signal.Signals(number).name)
    asked_to_end.set()
