"""Requests that are answered without the app, on a connection in front of one that answers "inside"."""

import asyncio
import json
from types import SimpleNamespace

from starlette.responses import Response

from vlmoe_serve.answers import ErrorAnswer, ErrorBody
from vlmoe_serve.errors import InvalidField
from vlmoe_serve.http_door import short_ways
from vlmoe_serve.http_door.body import leave_seats
from vlmoe_serve.http_door.express import Express
from vlmoe_serve.http_door.short_ways import Ways
from vlmoe_serve.http_door.turnstile import Turnstile
from vlmoe_serve.in_flight import InFlight
from vlmoe_serve.keys.access import Access
from vlmoe_serve.keys.api_keys import ApiKeys
from vlmoe_serve.keys.key_limits import KeyLimits
from vlmoe_serve.lobby import Lobby
from vlmoe_serve.metrics import Metrics

from . import talking as server

BODY = b'{"text": "a cat"}'


class Service:
    """Lets everybody in; answers when `gate` is set."""

    def __init__(self):
        self.traces = None
        self.draining = False
        self.models = [SimpleNamespace(name="demo")]
        self.metrics = Metrics()
        self.in_flight = InFlight()
        self.lobby = Lobby()
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = asyncio.Event()
        self.num_cancelled = 0

    def admit(self, call):
        if not call.seats:
            call.seats.append(self.lobby.enter(call.priority, call.deadline_s))

    async def run(self, name, body, call):
        self.running.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if body.get("text") == "bad":
            raise InvalidField("text: it is bad", param="text")
        if body.get("text") == "unforeseen":
            raise ZeroDivisionError
        call.timings.model_id = "demo@1"
        call.timings.add(1.0, 2.0, 3.0, 4)
        return ErrorAnswer(error=ErrorBody(code=name, message=str(body), param=None))

    def lines(self, start):
        return [line for line in self.metrics.text().decode().splitlines() if line.startswith(start)]


def post(body=BODY, fields=b"", path=b"/vqa"):
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%s\r\n"
    return head % (path, len(body), fields) + body


def talking(talk, limits=None, key_limits=None, keys=None):
    """Run `talk(connect, service)`."""
    service = Service()
    access = Access(ApiKeys(keys), key_limits or KeyLimits(), service.metrics)
    ways = Ways(Turnstile(service, access, ["/vqa", "/other"], 1000), Express(service, access, ["vqa"]))

    async def app(scope, receive, send):
        content = b""
        while (message := await receive())["type"] == "http.request":
            content += message["body"]
            if not message["more_body"]:
                break
        leave_seats(scope)
        await Response(b"inside " + content)(scope, receive, send)

    async def run(connect):
        await talk(connect, service)
        while service.in_flight.num:
            await asyncio.sleep(0.001)
        assert len(service.lobby) == 0
        assert service.lines("vlmoe_requests_in_flight") == ["vlmoe_requests_in_flight 0.0"]

    server.talking(run, app, limits, ways)


async def asked(connection, request):
    reader, writer = connection
    writer.write(request)
    return await server.answered(reader)


def test_a_task_is_answered_with_its_id_and_its_times():
    async def talk(connect, service):
        connection = await connect()
        for number in range(3):
            status, fields, body = await asked(connection, post(fields=b"x-request-id: %d\r\n" % number))
            assert (status, json.loads(body)["error"]["code"]) == (200, "vqa")
            assert fields[b"x-request-id"] == b"%d" % number
            assert (fields[b"x-model-id"], fields[b"x-forward-ms"]) == (b"demo@1", b"3.000")
            assert fields[b"content-type"] == b"application/json"
            assert fields[b"date"]
        assert service.lines("vlmoe_requests_total") == [
            'vlmoe_requests_total{method="POST",route="/vqa",status="200"} 3.0'
        ]

    talking(talk)


def test_a_body_may_come_in_pieces():
    async def talk(connect, service):
        reader, writer = await connect()
        for byte in post():
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        status, _, body = await server.answered(reader)
        assert (status, json.loads(body)["error"]["code"]) == (200, "vqa")

    talking(talk)


def test_errors_have_their_shape_and_what_nobody_foresaw_shows_nothing(caplog):
    async def talk(connect, service):
        connection = await connect()
        status, _, body = await asked(connection, post(b'{"text": "bad"}'))
        assert (status, json.loads(body)["error"]["param"]) == (422, "text")
        status, _, body = await asked(connection, post(b"{"))
        assert (status, json.loads(body)["error"]["code"]) == (400, "malformed_json")
        status, fields, body = await asked(connection, post(b'{"text": "unforeseen"}'))
        assert (status, json.loads(body)["error"]["message"]) == (500, "internal error")
        assert fields[b"x-request-id"].decode() in caplog.text
        assert (await asked(connection, post()))[0] == 200

    talking(talk)


def test_other_requests_go_to_the_app():
    shares = KeyLimits(max_concurrent=1)
    known = {bytes.fromhex("2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"): "mine"}

    async def talk(connect, service):
        connection = await connect()
        for request in (
            post(path=b"/other"),
            post(path=b"/vqa?a=b"),
            post(fields=b"content-type: multipart/form-data; boundary=a\r\n"),
            post(fields=b"content-type: Multipart/Form-Data; boundary=a\r\n"),
            post(fields=b"content-encoding: gzip\r\n"),
            b"POST /vqa HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n11\r\n%s\r\n0\r\n\r\n"
            % BODY,
        ):
            status, _, body = await asked(connection, request)
            assert (status, body) == (200, b"inside " + BODY)

    async def talk_with_a_share(connect, service):
        request = post(fields=b"x-api-key: secret\r\n")
        assert (await asked(await connect(), request))[2] == b"inside " + BODY

    talking(talk)
    talking(talk_with_a_share, key_limits=shares, keys=known)


def test_a_body_that_takes_long_goes_to_the_app_with_what_has_come(monkeypatch):
    monkeypatch.setattr(short_ways, "_GATHER_S", 20.0)

    async def talk(connect, service):
        reader, writer = await connect()
        request = post()
        writer.write(request[:-5])
        await server.turns()
        assert service.in_flight.num == 1
        await server.skip(20.0)
        # its place among those in flight is given up, for the app to take it
        assert service.in_flight.num == 0
        writer.write(request[-5:])
        assert (await server.answered(reader))[2] == b"inside " + BODY
        assert json.loads((await asked((reader, writer), post()))[2])["error"]["code"] == "vqa"

    talking(talk)


def test_requests_sent_ahead_are_answered_in_their_order():
    async def talk(connect, service):
        reader, writer = await connect()
        service.gate.clear()
        writer.write(post() + post(path=b"/other") + post(b'{"text": "bad"}') + post())
        await service.running.wait()
        service.gate.set()
        answers = [await server.answered(reader) for _ in range(4)]
        # those behind one that is being answered wait for it, and go to the app
        assert [body[:6] for _, _, body in answers] == [b'{"erro', b"inside", b"inside", b"inside"]
        assert answers[2][2] == b'inside {"text": "bad"}'

    talking(talk)


def test_who_leaves_while_it_is_answered_is_cancelled_and_counted():
    async def talk(connect, service):
        service.gate.clear()
        _, writer = await connect()
        writer.write(post())
        await service.running.wait()
        assert service.in_flight.num == 1
        writer.transport.abort()
        while service.in_flight.num:
            await asyncio.sleep(0.001)
        assert service.num_cancelled == 1
        assert service.lines("vlmoe_disconnects_total") == ['vlmoe_disconnects_total{route="/vqa"} 1.0']
        service.gate.set()

    talking(talk)


def test_who_leaves_in_the_middle_of_a_body_is_the_apps():
    async def talk(connect, service):
        _, writer = await connect()
        writer.write(post()[:-5])
        while not service.in_flight.num:
            await asyncio.sleep(0.001)
        writer.transport.abort()
        while service.in_flight.num:
            await asyncio.sleep(0.001)
        assert not service.running.is_set()

    talking(talk)
