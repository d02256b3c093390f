"""A small server on a real socket that answers as documented, and misbehaves when told to."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from PIL import Image

from vlmoe_client import AsyncClient, Client, Retry

USAGE = {"image_tokens": 49, "text_tokens": 6}


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


class Refused(Exception):
    """An answer with the documented error shape."""

    def __init__(self, status: int, code: str, message: str = "no", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"code": code, "message": message, "param": param}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 10
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


def each_alone(task: Callable[[Any], Any], item: Any) -> Any:
    try:
        return task(item)
    except Refused as refused:
        return {"error": refused.error}


def digest(image: str) -> str:
    """Tells the tests which bytes arrived."""
    if image.startswith("data:") or image.startswith("http"):
        return image
    return hashlib.sha256(base64.b64decode(image, validate=True)).hexdigest()[:12]


def vqa(body: Any) -> Any:
    if body["question"] == "":
        raise Refused(422, "invalid_field", "question must not be empty", "question")
    answers = [{"answer": digest(body["image"]), "score": 0.75}, {"answer": body["question"], "score": 0.25}]
    return {"model": body.get("model", "demo"), "answers": answers[: body.get("top_k", 5)], "usage": USAGE}


def classify(body: Any) -> Any:
    names = body.get("labels") or ["cat", "dog"]
    labels = [{"label": name, "score": 1 / (2 + place)} for place, name in enumerate(names)]
    return {"model": "demo", "head": body.get("head", "animals"), "labels": labels, "usage": USAGE}


def embed(body: Any) -> Any:
    if ("image" in body) == ("text" in body):
        raise Refused(422, "invalid_field", "give image or text", None)
    return {"model": "demo", "space_id": "s-1", "embedding": [0.6, -0.8], "usage": USAGE}


def rerank(body: Any) -> Any:
    candidates = body["images"] if "query" in body else body["texts"]
    results = [{"index": i, "relevance_score": i / 10} for i in reversed(range(len(candidates)))]
    return {"model": "demo", "results": results[: body.get("top_n")], "usage": USAGE}


def explain(body: Any) -> Any:
    fields = {name: value for name, value in body.items() if name != "task"}
    tokens = [
        {"pool": "T", "experts": [3], "gates": [0.5]},
        {"pool": "V", "experts": [], "gates": []},
        {"pool": "V", "experts": [0, 1], "gates": [0.75, 0.125]},
    ]
    return {
        "model": "demo",
        "task": body["task"],
        "head": "some",
        "tokens": ["[T_CLS]", "[I_CLS]", "[PATCH]"],
        "patch_grid": {"rows": 1, "columns": 1, "start": 2} if "image" in body else None,
        "layers": [{"layer": 1, "num_experts": 4, "tokens": tokens}],
        "answer": {"vqa": vqa, "classify": classify, "embed": embed}[body["task"]](fields),
        "usage": USAGE,
    }


def upsert(stored: dict[str, Any], items: Any) -> Any:
    errors = []
    for item in items:
        if item.get("image") == base64.b64encode(b"broken").decode():
            errors.append(
                {"id": item["id"], "error": {"code": "broken_image", "message": "broken", "param": "image"}}
            )
            continue
        stored[item["id"]] = {"metadata": item.get("metadata", {}), "text": item.get("text")}
    return {"upserted": len(items) - len(errors), "errors": errors}


def refuse(status: int, code: str = "refused", **headers: str) -> Callable[[Handler], None]:
    """Answer once with this status."""
    error = {"error": {"code": code, "message": f"refused with {status}", "param": "image"}}
    return lambda handler: handler.answer(status, error, **headers)


def drop(handler: Handler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


def cut(handler: Handler) -> None:
    """Promise more bytes than are sent."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"model"')
    handler.close_connection = True


def raw(status: int, data: bytes, **headers: str) -> Callable[[Handler], None]:
    """Answer with any bytes."""
    return lambda handler: handler.answer(status, data, **headers)


def drip(handler: Handler) -> None:
    """Send a byte now and then, for longer than any test's patience."""
    handler.send_response(200)
    handler.send_header("content-length", "200")
    handler.end_headers()
    try:
        for _ in range(200):
            handler.wfile.write(b" ")
            time.sleep(0.02)
    except OSError:
        handler.close_connection = True


@pytest.fixture
def wrong() -> SimpleNamespace:
    """The ways to misbehave, for `server.next`."""
    return SimpleNamespace(refuse=refuse, raw=raw, drop=drop, cut=cut, drip=drip)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up is what some tests are about


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("VLMOE_URL", raising=False)
    monkeypatch.delenv("VLMOE_API_KEY", raising=False)
    handler = type("BoundHandler", (Handler,), {})
    listener = _Listener(("127.0.0.1", 0), handler)
    handler.state = Server(f"http://127.0.0.1:{listener.server_port}")
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield handler.state
    listener.shutdown()
    thread.join()
    listener.server_close()


@pytest.fixture
def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def digest_of() -> Callable[[bytes], str]:
    return lambda data: hashlib.sha256(data).hexdigest()[:12]


QUICK = Retry(attempts=3, base_s=0.001)


@pytest.fixture(params=[Client, AsyncClient], ids=["blocking", "asyncio"])
def do(request: pytest.FixtureRequest, server: Server) -> Callable[..., Any]:
    """Calls one method of a fresh client: every test that takes this runs with both."""

    def blocking(method: str, *args: Any, client: dict[str, Any], **fields: Any) -> Any:
        with Client(server.url, **client) as opened:
            result = getattr(opened, method)(*args, **fields)
            return list(result) if method == "list_items" else result

    async def under_asyncio(method: str, *args: Any, client: dict[str, Any], **fields: Any) -> Any:
        async with AsyncClient(server.url, **client) as opened:
            if method == "list_items":
                return [item async for item in opened.list_items(*args, **fields)]
            return await getattr(opened, method)(*args, **fields)

    def run(method: str, *args: Any, client: dict[str, Any] | None = None, **fields: Any) -> Any:
        settings = {"retry": QUICK, "timeout": 10.0, **(client or {})}
        if request.param is Client:
            return blocking(method, *args, client=settings, **fields)
        return asyncio.run(under_asyncio(method, *args, client=settings, **fields))

    return run
