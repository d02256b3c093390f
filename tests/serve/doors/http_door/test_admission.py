"""The layer that refuses, alone: what it lets through and what it answers itself."""

import asyncio

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from vlmoe_serve.errors import Overloaded
from vlmoe_serve.http_door.admission import Admission
from vlmoe_serve.http_door.body import call_from


class Service:
    """Admits `room` calls."""

    def __init__(self, room):
        self.room = room
        self.admitted = []

    def admit(self, call):
        if len(self.admitted) == self.room:
            raise Overloaded("full", retry_after_s=2.5)
        self.admitted.append(call)


def ask(service, method="POST", path="/vqa", **headers):
    seen = []

    async def app(scope, receive, send):
        seen.append(call_from(scope))
        await Response("inside")(scope, receive, send)

    async def send():
        transport = httpx.ASGITransport(Admission(app, service, ["/vqa", "/embed"]))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(
                method, path, headers={name.replace("_", "-"): text for name, text in headers.items()}
            )

    return asyncio.run(send()), seen


def test_who_is_let_in_keeps_its_call():
    service = Service(1)
    answer, seen = ask(service, x_priority="batch", x_request_timeout_ms="1000")
    assert answer.text == "inside"
    assert seen == service.admitted, "one call for one request"
    assert seen[0].priority == "batch"
    assert seen[0].deadline_s is not None


def test_who_is_not_is_answered_without_the_app():
    answer, seen = ask(Service(0))
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")
    assert answer.headers["retry-after"] == "3"
    assert seen == []


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/vqa"), ("POST", "/collections/a/items"), ("GET", "/metrics")]
)
def test_other_routes_are_left_alone(method, path):
    answer, seen = ask(Service(0), method, path)
    assert answer.text == "inside"
    assert len(seen) == 1


def test_a_header_out_of_range_is_an_error_of_the_request():
    answer, _ = ask(Service(1), x_priority="urgent")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-priority")
