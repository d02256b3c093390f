"""A server that answers in a cheaper mode while it is overloaded, and says so."""

import threading

import pytest

from ..waiting import PATIENCE_S, wait_until

MODE = "capacity=0.25;overflow=priority"


@pytest.mark.slow
def test_it_begins_under_overload_and_ends_after_it(start, image):
    server = start("--brownout", "on", "--max-queue-ms", "8", "--cache-mb", "8")
    body = {"image": image}
    gauge = 'vlmoe_brownout{model="tiny"}'

    def mode(route="/classify", sent=body):
        return server.client.post(route, json=sent).headers.get("x-routing-mode")

    assert mode() is None
    assert server.metric(gauge) == 0
    vector = server.client.post("/embed", json=body).json()

    crowd = threading.Thread(
        target=lambda: server.client.post("/classify", json={"inputs": [body] * 256}, timeout=PATIENCE_S)
    )
    with server.engine_paused():
        crowd.start()

        # whoever comes now is refused, and after half a second of that it has begun
        def begun():
            server.client.post("/classify", json=body, headers={"x-request-timeout-ms": "50"})
            return server.metric(gauge)

        wait_until(begun)
    crowd.join()
    assert server.metric('vlmoe_brownout_switches_total{model="tiny",to="on"}') == 1

    assert mode() == MODE
    assert mode("/vqa", {**body, "question": "is there a red circle"}) == MODE
    assert mode("/explain/routing", {**body, "task": "classify"}) == MODE
    # embeddings are what they always are, kept or not
    for route, sent in (
        ("/embed", body),
        ("/embed", {"text": "a cat"}),
        ("/classify", {**body, "labels": ["a"]}),
    ):
        assert mode(route, sent) is None
    assert server.client.post("/embed", json=body).json() == vector
    server.client.put("/collections/gallery", json={})
    stored = server.client.post("/collections/gallery/items", json={"items": [{"id": "a", "image": image}]})
    assert stored.json()["upserted"] == 1
    (hit,) = server.client.post("/retrieve", json={"collection": "gallery", "image": image}).json()["hits"]
    assert hit["score"] == pytest.approx(1.0, abs=1e-6)

    wait_until(lambda: server.metric(gauge) == 0)
    assert mode() is None
    assert server.metric('vlmoe_brownout_switches_total{model="tiny",to="off"}') == 1
    assert server.metric(f'vlmoe_routing_mode_jobs_total{{mode="{MODE}",model="tiny"}}') >= 3
    assert server.end() == 0


def test_without_the_option_nothing_is_ever_browned_out(server):
    assert "vlmoe_brownout{" not in server.client.get("/metrics").text
