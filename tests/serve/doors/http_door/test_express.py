"""The short way beside the long one, on a real server: a body of unknown length goes through all layers."""

import json

import pytest

from ...waiting import wait_until

# of one request alone, or of one connection's moment
OF_ITS_OWN = {"date", "x-request-id", "x-encode-ms", "x-queue-ms", "x-forward-ms"}


def both_ways(client, path, body, **headers):
    def chunks():
        yield body

    named = {"content-type": "application/json", **headers}
    return [client.post(path, content=content, headers=named) for content in (body, chunks())]


def seen(answer):
    fields = {name: value for name, value in answer.headers.items() if name not in OF_ITS_OWN}
    return answer.status_code, fields, answer.headers.keys() & OF_ITS_OWN, answer.content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"text": "a cat"}),
        ("/embed", {"inputs": [{"text": "a cat"}, {"text": ""}, {"text": 5}, 6]}),
        ("/classify", {"text": "a cat", "top_k": 10**30}),
        ("/retrieve", {"collection": "none", "text": "a"}),
        ("/rerank", {"query": "a"}),
        ("/explain/routing", {"task": "embed", "text": "a cat"}),
        ("/vqa", {}),
        ("/vqa", {"question": "what", "image": "bm90IGFuIGltYWdl"}),
        ("/vqa", []),
        ("/vqa", {"image": "", "question": "", "model": "none", "more": 1}),
    ],
)
def test_both_ways_give_the_same(client, path, body):
    short, long = both_ways(client, path, json.dumps(body).encode())
    assert seen(short) == seen(long)


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"text": NaN}', b"\xff", b'{"text": "a", "text": "b"}', b"[" * 300]
)
def test_both_ways_refuse_the_same(client, body):
    short, long = both_ways(client, "/embed", body)
    assert short.status_code == 400
    assert seen(short) == seen(long)


def test_pictures_are_answered_alike(client, image):
    body = json.dumps({"image": image, "question": "what shape is in the image", "top_k": 2}).encode()
    short, long = both_ways(client, "/vqa", body, **{"x-priority": "batch"})
    assert short.status_code == 200
    assert seen(short) == seen(long)


def test_both_ways_keep_the_deadline_and_are_counted_and_logged(server, client):
    def num(status):
        return server.metric(f'vlmoe_requests_total{{method="POST",route="/embed",status="{status}"}}')

    before = num(504)
    with server.engine_paused():
        answers = both_ways(
            client,
            "/embed",
            b'{"text": "late"}',
            **{"x-request-timeout-ms": "150", "x-request-id": "both-ways"},
        )
    assert {answer.status_code for answer in answers} <= {429, 504}
    late = sum(answer.status_code == 504 for answer in answers)
    assert late > 0
    assert num(504) == before + late
    wait_until(lambda: server.log.count("id=both-ways") == 2)
    wait_until(lambda: server.metric("vlmoe_requests_in_flight") == 1)
