"""A small server on a real socket that answers as documented, and misbehaves when told to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .small_answers import USAGE, Refused, classify, each_alone, embed, explain, rerank, upsert, vqa


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    connection: tuple[str, int]

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass
class Server:
    """What the tests hold: where it listens, what arrived, and what it shall do wrong next."""

    url: str
    seen: list[Seen] = field(default_factory=list)
    wrongs: deque[Callable[[Handler], None]] = field(default_factory=deque)
    collections: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def next(self, *wrongs: Callable[[Handler], None]) -> None:
        """Answer the coming requests with these, then properly again."""
        self.wrongs.extend(wrongs)

    def paths(self) -> list[str]:
        return [f"{each.method} {each.path}" for each in self.seen]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # of a connection that says nothing: longer than any call of a test
    timeout = 240
    state: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_any(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.state.seen.append(Seen(self.command, self.path, headers, raw, self.client_address))
        if self.state.wrongs:
            self.state.wrongs.popleft()(self)
            return
        try:
            self.answer(200, self.route(json.loads(raw) if raw else {}))
        except Refused as refused:
            self.answer(refused.status, {"error": refused.error})

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def answer(self, status: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "x-request-id" in self.headers:
            self.send_header("x-request-id", self.headers["x-request-id"])
        if status == 200:
            for name, value in {
                "encode-ms": "1.5",
                "queue-ms": "0.25",
                "forward-ms": "8",
                "batch-tokens": "55",
            }.items():
                self.send_header(f"x-{name}", value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def route(self, body: Any) -> Any:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.split("/")[1:]]
        if parts[0] == "collections":
            return self.store(parts[1:], body, parse_qs(url.query))
        task = {
            "vqa": vqa,
            "classify": classify,
            "embed": embed,
            "retrieve": self.retrieve,
            "rerank": rerank,
            "explain": explain,
        }.get(parts[0])
        if task is not None:
            if "inputs" not in body:
                return task(body)
            shared = {name: value for name, value in body.items() if name != "inputs"}
            return {"results": [each_alone(task, {**shared, **item}) for item in body["inputs"]]}
        if url.path == "/v1/models":
            model = {"id": "demo", "object": "model", "tasks": ["vqa", "embed"], "model_id": "m-1"}
            return {"object": "list", "data": [{**model, "space_id": "s-1", "state": "ready"}]}
        if url.path in ("/healthz", "/readyz"):
            return {"status": "ok"}
        raise Refused(404, "not_found", f"no route {url.path}")

    def store(self, parts: list[str], body: Any, query: dict[str, list[str]]) -> Any:
        stored = self.state.collections

        def described(name: str) -> dict[str, Any]:
            return {"name": name, "space_id": "s-1", "count": len(stored[name])}

        if not parts:
            return {"collections": [described(name) for name in stored]}
        name, rest = parts[0], parts[1:]
        if self.command == "PUT":
            stored.setdefault(name, {})
            return described(name)
        if name not in stored:
            raise Refused(404, "collection_not_found", f"no collection {name!r}", "collection")
        if not rest:
            answer = described(name)
            if self.command == "DELETE":
                del stored[name]
            return answer
        if self.command == "POST":
            return upsert(stored[name], body["items"])
        if len(rest) == 1:
            start, limit = int(query.get("cursor", ["0"])[0]), int(query["limit"][0])
            items = [{"id": id, "metadata": item["metadata"]} for id, item in stored[name].items()]
            cursor = str(start + limit) if start + limit < len(items) else None
            return {"items": items[start : start + limit], "cursor": cursor}
        if rest[1] not in stored[name]:
            raise Refused(404, "item_not_found", f"no item {rest[1]!r}")
        item = stored[name].pop(rest[1]) if self.command == "DELETE" else stored[name][rest[1]]
        return {"id": rest[1], "metadata": item["metadata"]}

    def retrieve(self, body: Any) -> Any:
        items = self.state.collections.get(body["collection"])
        if items is None:
            raise Refused(404, "collection_not_found", f"no collection {body['collection']!r}", "collection")
        hits = [
            {"id": id, "score": 0.5, "itc": 0.5, "itm": None, "metadata": item["metadata"]}
            for id, item in items.items()
        ]
        return {"model": "demo", "space_id": "s-1", "hits": hits[: body.get("top_k", 10)], "usage": USAGE}


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up is what some tests are about


@contextlib.contextmanager
def listening() -> Iterator[Server]:
    """One that listens."""
    handler = type("BoundHandler", (Handler,), {})
    listener = _Listener(("127.0.0.1", 0), handler)
    handler.state = Server(f"http://127.0.0.1:{listener.server_port}")
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield handler.state
    listener.shutdown()
    thread.join()
    listener.server_close()
