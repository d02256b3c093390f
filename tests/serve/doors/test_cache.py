import base64
import io

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def cached(start):
    return start("--cache-mb", "8")


def hits(server, cache):
    return server.metric(f'vlmoe_cache_hits_total{{cache="{cache}"}}')


def asked(client, image):
    """One call of each kind, with the headers' names."""
    bodies = {
        "/vqa": {"image": image, "question": "is there a cat"},
        "/classify": {"image": image},
        "/embed": {"image": image},
    }
    answers = {route: client.post(route, json=body) for route, body in bodies.items()}
    answers["text"] = client.post("/embed", json={"text": "a sleeping cat"})
    answers["labels"] = client.post("/classify", json={"image": image, "labels": ["a cat", "scissors"]})
    return {name: (answer.json(), sorted(answer.headers)) for name, answer in answers.items()}


def test_answers_are_the_same_with_and_without_a_cache(cached, server, image):
    first = asked(cached.client, image)
    pixels, vectors = hits(cached, "images"), hits(cached, "embeddings")
    again = asked(cached.client, image)
    without = asked(server.client, image)
    assert first == again == without
    # four pictures; a picture, a text, and a picture with two labels
    assert hits(cached, "images") - pixels == 4
    assert hits(cached, "embeddings") - vectors == 5
    assert hits(server, "images") == hits(server, "embeddings") == 0


def test_a_kept_embedding_needs_no_engine(cached):
    body = {"text": "two pairs of scissors"}
    before = cached.client.post("/embed", json=body)
    with cached.engine_paused():
        kept = cached.client.post("/embed", json=body)
        late = cached.client.post("/embed", json={"text": "red"}, headers={"x-request-timeout-ms": "200"})
    assert kept.json() == before.json()
    assert kept.headers["x-batch-tokens"] == "0"
    assert late.status_code == 504


def test_the_same_picture_in_another_format_is_one_embedding(cached, png):
    data = png((10, 200, 30))
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.save(buffer, "BMP")
    vectors = hits(cached, "embeddings")
    answers = [
        cached.client.post("/embed", json={"image": base64.b64encode(one).decode()}).json()
        for one in (data, buffer.getvalue())
    ]
    assert answers[0] == answers[1]
    assert hits(cached, "embeddings") == vectors + 1


def test_the_caches_stay_within_their_bytes(start, png):
    small = start("--cache-mb", "0.02")
    for shade in range(60):
        image = base64.b64encode(png((shade, 0, 0))).decode()
        assert small.client.post("/embed", json={"image": image}).status_code == 200
    sizes = {name: small.metric(f'vlmoe_cache_bytes{{cache="{name}"}}') for name in ("images", "embeddings")}
    assert 0 < sizes["images"] <= 17_500
    assert 0 < sizes["embeddings"] <= 2_500
    assert small.end() == 0
