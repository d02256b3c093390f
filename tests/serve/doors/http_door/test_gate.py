import asyncio

import httpx
import pytest

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_serve.batching.batcher import Batcher
from vlmoe_serve.catalog.models import Models, ServedModel
from vlmoe_serve.encoding.encode import EncodePool
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.http_door.app import create_app
from vlmoe_serve.keys.access import Access
from vlmoe_serve.keys.api_keys import ApiKeys
from vlmoe_serve.keys.key_limits import KeyLimits
from vlmoe_serve.metrics import Metrics
from vlmoe_serve.retrieval.manager import Collections
from vlmoe_serve.service import Limits, Service

NO_KEYS = ApiKeys()
NO_LIMITS = KeyLimits()
OPEN = ["/", "/healthz", "/page/page.js", "/page/page.css", "/page/docs.html"]
CLOSED = [
    "/docs",
    "/openapi.json",
    "/metrics",
    "/v1/models",
    "/collections",
    "/nothing",
    "/collections/a/items/healthz",
]


@pytest.fixture
def service(checkpoint, tmp_path):
    """A service whose engine has not been started, which is what a door meets while a model loads."""
    directory = open_directory(checkpoint)
    collections, pool = Collections(tmp_path), EncodePool(1)
    model = ServedModel("tiny", directory, directory.processor(), Batcher(EngineOptions(checkpoint)))
    limits = Limits(max_image_pixels=10**6)
    yield Service(Models([model]), collections, pool, limits, Metrics())
    collections.close()
    pool.close()


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text("the-key\nsecond\n")
    return ApiKeys.load(file)


@pytest.fixture
def ask(service):
    """ask(method, path, keys, headers): one request to the app, in this process."""

    def request(method, path, keys=NO_KEYS, headers=None, limits=NO_LIMITS, **more):
        access = Access(keys, limits, service.metrics)

        async def send():
            transport = httpx.ASGITransport(create_app(service, access, max_body_bytes=1000))
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, headers=headers, **more)

        return asyncio.run(send())

    return request


@pytest.mark.parametrize("path", CLOSED)
def test_a_key_is_asked_for(ask, keys, path):
    for headers in (
        {},
        {"x-api-key": "wrong"},
        {"authorization": "Basic the-key"},
        {"authorization": "Bearer"},
    ):
        answer = ask("GET", path, keys, headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    for headers in (
        {"x-api-key": "the-key"},
        {"authorization": "Bearer second"},
        {"authorization": "bearer the-key"},
    ):
        assert ask("GET", path, keys, headers).status_code != 401


@pytest.mark.parametrize("path", OPEN)
def test_health_and_the_page_are_open(ask, keys, path):
    assert ask("GET", path, keys).status_code == 200


def test_without_keys_nobody_is_asked(ask):
    assert ask("GET", "/collections").status_code == 200


def test_a_body_without_a_key_is_not_looked_at(ask, keys):
    assert ask("POST", "/vqa", keys, content=b"{").status_code == 401


def test_while_the_model_loads_tasks_say_when_to_come_back(ask):
    for method, path in (
        ("GET", "/readyz"),
        ("POST", "/vqa"),
        ("PUT", "/collections/a"),
        ("POST", "/collections/a/items"),
    ):
        answer = ask(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "starting")
        assert int(answer.headers["retry-after"]) >= 1
    assert ask("GET", "/healthz").status_code == 200
    assert ask("GET", "/v1/models").json()["data"][0]["state"] == "loading"


def test_while_draining_only_probes_are_answered(ask, service):
    service.draining = True
    for path in ("/v1/models", "/collections", "/"):
        answer = ask("GET", path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
        assert answer.headers["retry-after"]
        assert answer.headers["connection"] == "close"
    assert ask("GET", "/readyz").status_code == 503
    assert ask("GET", "/healthz").status_code == 200
    assert ask("GET", "/metrics").status_code == 200


def test_a_key_that_asks_too_often_is_told_when_to_come_back(ask, keys):
    limits = KeyLimits(max_rate=0.001)
    shown = {"x-api-key": "the-key"}
    assert ask("GET", "/collections", keys, shown, limits).status_code == 200
    refused = ask("GET", "/collections", keys, shown, limits)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "key_rate")
    assert 900 < int(refused.headers["retry-after"]) <= 1000
    # scrapes are not counted, and other keys have a share of their own
    assert ask("GET", "/metrics", keys, shown, limits).status_code == 200
    text = ask("GET", "/metrics", keys, shown, limits).text
    assert 'vlmoe_key_refusals_total{key="line-1",why="key_rate"} 1.0' in text
    assert ask("GET", "/collections", keys, {"x-api-key": "second"}, limits).status_code == 200


def test_a_share_is_free_again_after_each_answer(ask, keys):
    limits = KeyLimits(max_concurrent=1)
    for _ in range(3):
        assert ask("GET", "/collections", keys, {"x-api-key": "the-key"}, limits).status_code == 200
        assert ask("POST", "/vqa", keys, {"x-api-key": "the-key"}, limits).status_code == 503
