import base64
import json

import numpy as np
import pytest

TEXTS = ["a sleeping cat", "a red circle", "two pairs of scissors"]


def embedding(client, **inputs):
    return np.array(client.post("/embed", json=inputs).json()["embedding"])


def encoded(picture):
    return base64.b64encode(picture).decode()


@pytest.fixture
def pictures(png):
    return [png((200, 30, 30)), png((30, 200, 30)), png((30, 30, 200), (40, 24)), png((0, 0, 0), (16, 40))]


def check_order(results, scores):
    order = np.argsort(-scores, kind="stable")
    assert [one["index"] for one in results] == order.tolist()
    assert [one["relevance_score"] for one in results] == pytest.approx(scores[order], abs=1e-5)


def test_pictures_are_ordered_by_a_text_and_texts_by_a_picture(client, pictures):
    images = [encoded(picture) for picture in pictures]
    answer = client.post("/rerank", json={"query": "a red circle", "images": images})
    assert answer.status_code == 200
    assert answer.headers["x-model-id"]
    found = answer.json()
    vectors = [embedding(client, image=image) for image in images]
    check_order(found["results"], np.array(vectors) @ embedding(client, text="a red circle"))
    assert found["model"] == "tiny"
    assert found["usage"] == {"image_tokens": 4 * 17, "text_tokens": 5}

    by_image = client.post("/rerank", json={"image": images[0], "texts": TEXTS}).json()
    vectors = [embedding(client, text=text) for text in TEXTS]
    check_order(by_image["results"], np.array(vectors) @ embedding(client, image=images[0]))
    best = client.post("/rerank", json={"image": images[0], "texts": TEXTS, "top_n": 2, "model": "tiny"})
    assert best.json()["results"] == by_image["results"][:2]


def test_a_form_carries_several_files(client, pictures):
    form = client.post(
        "/rerank",
        files=[("images", (f"{i}.png", picture)) for i, picture in enumerate(pictures)],
        data={"query": "a red circle", "top_n": "3"},
    )
    images = [encoded(picture) for picture in pictures]
    assert (
        form.json()
        == client.post("/rerank", json={"query": "a red circle", "images": images, "top_n": 3}).json()
    )


def test_candidates_share_batches(server, client):
    jobs, batches = ('vlmoe_batch_jobs_sum{model="tiny"}', 'vlmoe_batch_jobs_count{model="tiny"}')
    before = server.metric(jobs), server.metric(batches)
    texts = [f"{word} circle" for word in ("a", "two", "the", "is", "in", "of") * 4]
    example = client.get("/openapi.json").json()["components"]["schemas"]["RerankRequest"]["examples"][0]
    assert client.post("/rerank", json={**example, "texts": texts}).status_code == 200
    assert server.metric(batches) < before[1] + len(texts)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 422, "texts"),
        ({"query": "a"}, 422, "images"),
        ({"image": "AAAA"}, 422, "texts"),
        ({"texts": ["a"]}, 422, "image"),
        ({"query": "a", "images": ["AAAA"], "texts": ["a"]}, 422, "texts"),
        ({"query": "a", "image": "AAAA", "images": ["AAAA"]}, 422, "query"),
        ({"query": "a", "images": []}, 422, "images"),
        ({"query": "a", "images": ["AAAA"]}, 415, "images.0"),
        ({"query": "a", "images": ["!"]}, 400, "images.0"),
        ({"query": "cat " * 100, "images": ["AAAA"]}, 413, "query"),
        ({"image": "AAAA", "texts": ["a", ""]}, 422, "texts.1"),
        ({"query": "a", "images": ["AAAA"], "top_n": 0}, 422, "top_n"),
        ({"query": "a", "images": ["AAAA"] * 257}, 422, "images"),
        ({"query": "a", "images": ["AAAA"], "model": "other"}, 404, "model"),
    ],
)
def test_mistakes_name_their_field(client, body, status, param):
    answer = client.post("/rerank", json=body)
    found = answer.json()["error"]
    if status == 413:
        # the picture is wrong too, and either may be found first
        assert (answer.status_code, found["param"]) in ((413, "query"), (415, "images.0"))
    else:
        assert (answer.status_code, found["param"]) == (status, param), json.dumps(found)


def test_of_several_queries_each_fails_alone(client, image):
    inputs = [{"image": picture, "texts": TEXTS} for picture in (image, "!", image)]
    results = client.post("/rerank", json={"inputs": inputs, "top_n": 1}).json()["results"]
    assert [len(one["results"]) if "results" in one else one["error"]["param"] for one in results] == [
        1,
        "inputs.1.image",
        1,
    ]
