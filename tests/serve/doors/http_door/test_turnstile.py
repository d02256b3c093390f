"""What refuses requests by their heads: alone, and on a connection in front of an app."""

import asyncio
import json
import re
from types import SimpleNamespace

import pytest
from starlette.responses import Response

from vlmoe_serve.errors import Overloaded, ShuttingDown
from vlmoe_serve.http_door.body import call_from
from vlmoe_serve.http_door.head import head_of
from vlmoe_serve.http_door.short_ways import Ways
from vlmoe_serve.http_door.turnstile import Turnstile
from vlmoe_serve.keys.access import Access
from vlmoe_serve.keys.api_keys import ApiKeys
from vlmoe_serve.keys.key_limits import KeyLimits
from vlmoe_serve.metrics import Metrics

from . import talking as server


class Service:
    """Admits `room` calls, then raises."""

    def __init__(self, room=0, error=None):
        self.room = room
        self.error = error or Overloaded("full", retry_after_s=2.5)
        self.admitted = []
        self.traces = None
        self.draining = False
        self.models = [SimpleNamespace(name="demo")]
        self.metrics = Metrics()
        self.num_asked = 0

    def admit(self, call):
        self.num_asked += 1
        if len(self.admitted) == self.room:
            raise self.error
        self.admitted.append(call)


def turnstile(service, keys=None):
    access = Access(ApiKeys(keys), KeyLimits(), service.metrics)
    return Turnstile(service, access, ["/vqa", "/embed"], max_body_bytes=1000)


def scope_of(**headers):
    named = {"content-length": "2", **{name.replace("_", "-"): text for name, text in headers.items()}}
    return {"headers": [(name.encode(), text.encode()) for name, text in named.items()]}


def refused(service, method=b"POST", url=b"/vqa", keys=None, **headers):
    return turnstile(service, keys).refused(method, url, scope_of(**headers))


def test_who_is_refused_keeps_its_name_and_is_counted():
    service = Service()
    refusal = refused(service, x_request_id="mine")
    assert refusal.error.status == 429
    assert refusal.request_id == "mine"
    assert (
        'vlmoe_requests_total{method="POST",route="/vqa",status="429"} 1.0' in service.metrics.text().decode()
    )
    assert "vlmoe_requests_in_flight 0.0" in service.metrics.text().decode()


def test_who_is_let_in_keeps_its_call():
    service = Service(1)
    scope = scope_of(x_priority="batch", x_request_timeout_ms="1000")
    assert turnstile(service).refused(b"POST", b"/vqa", scope) is None
    assert service.admitted == [call_from(scope)], "one call for one request"
    assert call_from(scope).priority == "batch"
    assert call_from(scope).deadline_s is not None


def test_a_refusal_stands_for_those_of_its_kind_who_come_right_after_it():
    service = Service(error=Overloaded("full", closed_s=60.0))
    ours = turnstile(service)
    many = [ours.refused(b"POST", b"/vqa", scope_of(x_request_timeout_ms="100")) for _ in range(50)]
    assert {refusal.error.message for refusal in many} == {"full"}
    assert len({refusal.request_id for refusal in many}) == 50
    # 5 ms each: even on a slow machine not every one was decided anew
    asked = service.num_asked
    assert asked < 50
    dropped = f'vlmoe_dropped_total{{model="demo",why="overloaded"}} {50 - asked}.0'
    assert dropped in service.metrics.text().decode()
    assert 'status="429"} 50.0' in service.metrics.text().decode()
    assert ours.refused(b"POST", b"/vqa", scope_of(x_request_timeout_ms="200")) is not None
    assert service.num_asked == asked + 1, "another deadline is another question"


def test_a_queue_that_is_only_just_too_long_is_asked_about_again():
    service = Service()
    ours = turnstile(service)
    for _ in range(5):
        assert ours.refused(b"POST", b"/vqa", scope_of()) is not None
    assert service.num_asked == 5


@pytest.mark.parametrize(
    ("method", "url"), [(b"GET", b"/vqa"), (b"POST", b"/collections/a/items"), (b"POST", b"/vqa?a=b")]
)
def test_other_requests_are_not_asked_about(method, url):
    service = Service()
    assert refused(service, method, url) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"x_priority": "urgent"},
        {"x_request_timeout_ms": "0"},
        {"content_length": "1001"},
        {"content_length": "+5"},
        {"content_length": "9" * 30},
        {"content_length": ""},
    ],
)
def test_what_is_wrong_is_left_to_the_layers_that_say_so(headers):
    assert refused(Service(), **headers) is None


def test_a_body_of_unknown_length_is_left_to_the_layer_that_counts():
    assert turnstile(Service()).refused(b"POST", b"/vqa", {"headers": []}) is None


def test_without_a_key_nobody_learns_how_long_the_queue_is():
    known = {bytes.fromhex("2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"): "mine"}
    assert refused(Service(), keys=known) is None
    assert refused(Service(), keys=known, authorization="Bearer wrong") is None
    assert refused(Service(), keys=known, authorization="Bearer secret").error.status == 429


def test_the_end_of_the_server_and_traces_take_the_long_way():
    assert refused(Service(error=ShuttingDown("the server is shutting down"))) is None
    traced = Service()
    traced.traces = object()
    assert refused(traced) is None


BODY = b'{"image": 1}'
POST = b"POST /vqa HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


def talking(service, talk):
    """Run `talk(connect, seen)` against a server whose app answers "inside"; `seen` collects the bodies it read."""
    seen = []

    async def app(scope, receive, send):
        seen.append((await receive())["body"])
        await Response("inside")(scope, receive, send)

    server.talking(lambda connect: talk(connect, seen), app, ways=Ways(turnstile(service)))


def test_a_connection_goes_on_after_a_refusal():
    service = Service()

    async def talk(connect, seen):
        reader, writer = await connect()
        for _ in range(3):
            writer.write(POST)
            status, fields, body = await server.answered(reader)
            assert (status, fields[b"retry-after"]) == (429, b"3")
            assert json.loads(body)["error"]["code"] == "overloaded"
            assert fields[b"x-request-id"]
            assert b"connection" not in fields
        service.room = 1
        writer.write(POST)
        assert (await server.answered(reader))[::2] == (200, b"inside")
        assert seen == [BODY]

    talking(service, talk)


def test_the_answer_comes_before_the_body_which_is_thrown_away():
    service = Service()

    async def talk(connect, seen):
        reader, writer = await connect()
        writer.write(POST[: -len(BODY)])
        assert (await server.answered(reader))[0] == 429
        for byte in BODY:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.001)
        service.room = 1
        writer.write(POST)
        assert (await server.answered(reader))[0] == 200
        assert seen == [BODY]

    talking(service, talk)


def test_requests_sent_ahead_are_answered_in_their_order():
    service = Service(1)

    async def talk(connect, seen):
        reader, writer = await connect()
        writer.write(POST * 3)
        answers = [await server.answered(reader) for _ in range(3)]
        # those behind one that is being answered wait for it, and are not asked about
        assert [status for status, _, _ in answers] == [200, 200, 200]
        service.admitted.clear()
        service.room = 0
        writer.write(POST * 3)
        assert [(await server.answered(reader))[0] for _ in range(3)] == [429, 429, 429]
        assert len(seen) == 3

    talking(service, talk)


@pytest.mark.parametrize("field", [b"connection: close", b"expect: 100-continue"])
def test_what_is_unusual_takes_the_long_way(field):
    async def talk(connect, seen):
        reader, writer = await connect()
        writer.write(POST.replace(b"host: x", b"host: x\r\n" + field))
        line = await reader.readline()
        if b"100" in line:
            await reader.readline()
            line = await reader.readline()
        assert b"200" in line

    talking(Service(), talk)


def test_who_takes_no_refusals_is_read_from_no_more_and_holds_up_nobody():
    """What is refused is answered at once: without a bound, answers that nobody takes would fill the memory."""
    service, burst, most = Service(), 50, 100_000

    async def app(scope, receive, send):
        await Response(headers={"x-request-id": head_of(scope)["x-request-id"]})(scope, receive, send)

    async def talk(connect):
        reader, writer = await connect(limit=1024)
        num_sent, num_idle = 0, 0
        while num_idle < 3:
            assert num_sent < most, "every answer that was not taken is held in memory"
            before = num_refused(service)
            for number in range(num_sent, num_sent + burst if num_idle == 0 else num_sent):
                writer.write(POST.replace(b"host: x", b"host: x\r\nx-request-id: n%d" % number))
                num_sent += 1
            await server.turns()
            num_idle = num_idle + 1 if num_refused(service) == before else 0
        other_reader, other_writer = await connect()
        other_writer.write(POST)
        assert (await server.answered(other_reader))[0] == 429
        # as soon as it takes the answers, it has them all, in order
        answers = [await server.answered(reader) for _ in range(num_sent)]
        assert [fields[b"x-request-id"] for _, fields, _ in answers] == [b"n%d" % n for n in range(num_sent)]
        assert {status for status, _, _ in answers} == {429, 200}, (
            "the last waited where answers wait their turn"
        )

    server.talking(talk, app, ways=Ways(turnstile(service)))


def num_refused(service):
    """Requests that were refused by their heads."""
    found = re.search(r'status="429"} (\d+)', service.metrics.text().decode())
    return 0 if found is None else int(found.group(1))
