import json

import numpy as np
import pytest


@pytest.fixture
def gallery(client, image, png):
    """A collection of four items, gone after the test."""
    made = client.put("/collections/gallery", json={})
    assert made.json() | {"space_id": "s"} == {"name": "gallery", "space_id": "s", "count": 0}
    items = [
        {"id": "cat", "text": "a sleeping cat", "metadata": {"kind": "text", "n": 1}},
        {"id": "circle", "text": "a red circle", "metadata": {"kind": "text", "n": 2}},
        {"id": "pictures/1", "image": image, "metadata": {"kind": "picture", "n": 3, "tags": ["red"]}},
        {"id": "caf\u00e9 \u2603", "text": "two"},
    ]
    assert client.post("/collections/gallery/items", json={"items": items}).json() == {
        "upserted": 4,
        "errors": [],
    }
    yield "gallery"
    assert client.delete("/collections/gallery").json() == {"deleted": True}


def error(answer):
    assert set(answer.json()["error"]) == {"code", "message", "param"}
    return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]


def ids(answer):
    return [hit["id"] for hit in answer.json()["hits"]]


def embedding(client, **inputs):
    return np.array(client.post("/embed", json=inputs).json()["embedding"])


def test_a_query_finds_itself_first(client, gallery, image):
    by_text = client.post("/retrieve", json={"collection": gallery, "text": "a red circle", "top_k": 2})
    assert ids(by_text)[0] == "circle"
    best = by_text.json()["hits"][0]
    assert best == {
        "id": "circle",
        "score": pytest.approx(1.0, abs=1e-5),
        "itc": best["score"],
        "itm": None,
        "metadata": {"kind": "text", "n": 2},
    }
    assert len(by_text.json()["hits"]) == 2
    assert by_text.headers["x-model-id"]
    assert (
        ids(client.post("/retrieve", json={"collection": gallery, "image": image, "rerank": False}))[0]
        == "pictures/1"
    )


def test_a_picture_and_a_text_are_searched_by_their_mean(client, gallery, image):
    found = client.post(
        "/retrieve", json={"collection": gallery, "image": image, "text": "a sleeping cat"}
    ).json()
    picture, text = embedding(client, image=image), embedding(client, text="a sleeping cat")
    query = (picture + text) / np.linalg.norm(picture + text)
    scores = {hit["id"]: hit["score"] for hit in found["hits"]}
    assert scores["cat"] == pytest.approx(query @ text, abs=1e-5)
    assert scores["pictures/1"] == pytest.approx(query @ picture, abs=1e-5)
    assert found["usage"] == {"image_tokens": 17, "text_tokens": 5}


def test_filters_choose_before_the_best_are_counted(client, gallery, png):
    query = {"collection": gallery, "text": "a red circle", "top_k": 1}
    assert ids(client.post("/retrieve", json={**query, "filter": {"kind": "picture"}})) == ["pictures/1"]
    assert ids(client.post("/retrieve", json={**query, "filter": {"n": {"lt": 2}}})) == ["cat"]
    assert ids(client.post("/retrieve", json={**query, "filter": {"tags": "blue"}})) == []
    form = client.post(
        "/retrieve",
        files={"image": ("a.png", png())},
        data={"collection": gallery, "filter": json.dumps({"kind": "text"}), "rerank": "false", "top_k": "9"},
    )
    assert set(ids(form)) == {"cat", "circle"}


def test_several_queries_share_a_collection(client, gallery):
    body = {
        "collection": gallery,
        "top_k": 1,
        "inputs": [{"text": "a red circle"}, {"text": "a", "collection": "x"}, {}],
    }
    results = client.post("/retrieve", json=body).json()["results"]
    assert results[0]["hits"][0]["id"] == "circle"
    assert [result["error"]["param"] for result in results[1:]] == ["inputs.1.collection", "inputs.2.text"]


def test_items_are_listed_in_pages(client, gallery):
    found, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        parameters = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = client.get(f"/collections/{gallery}/items", params=parameters).json()
        found += [item["id"] for item in page["items"]]
        cursor, pages = page["cursor"], pages + 1
    assert (found, pages) == (["caf\u00e9 \u2603", "cat", "circle", "pictures/1"], 2)
    assert client.get(f"/collections/{gallery}/items", params={"limit": 4}).json()["cursor"] is None


def test_single_items(client, gallery):
    for path, item in (
        ("pictures%2F1", "pictures/1"),
        ("pictures/1", "pictures/1"),
        ("caf%C3%A9%20%E2%98%83", "caf\u00e9 \u2603"),
    ):
        assert client.get(f"/collections/{gallery}/items/{path}").json()["id"] == item
    assert client.delete(f"/collections/{gallery}/items/pictures%2F1").json() == {"deleted": True}
    gone = (404, "item_not_found", "id")
    assert error(client.get(f"/collections/{gallery}/items/pictures%2F1")) == gone
    assert error(client.delete(f"/collections/{gallery}/items/pictures%2F1")) == gone
    assert client.get(f"/collections/{gallery}").json()["count"] == 3


def test_items_are_replaced_by_id(client, gallery):
    items = [{"id": "cat", "text": "two pairs of scissors", "metadata": {"new": True}}]
    assert client.post(f"/collections/{gallery}/items", json={"items": items}).json()["upserted"] == 1
    assert (
        ids(client.post("/retrieve", json={"collection": gallery, "text": "two pairs of scissors"}))[0]
        == "cat"
    )
    assert client.get(f"/collections/{gallery}/items/cat").json() == {"id": "cat", "metadata": {"new": True}}
    assert client.get(f"/collections/{gallery}").json()["count"] == 4


def test_each_item_fails_alone(client, gallery, image):
    items = [
        {"id": "good", "image": image},
        {"id": "neither"},
        {"id": "both", "image": image, "text": "a"},
        {"id": "../up", "text": "a"},
        {"id": "broken", "image": "AAAA"},
        {"id": 5, "text": "a"},
        {"id": "large", "text": "a", "metadata": {"x": "y" * 70_000}},
        {"id": "odd", "text": "a", "colour": 1},
        {"id": "infinite", "text": "a", "metadata": "INFINITE"},
        "text",
    ]
    content = json.dumps({"items": items}).replace('"INFINITE"', '{"x": 1e999}')
    found = client.post(f"/collections/{gallery}/items", content=content).json()
    assert found["upserted"] == 1
    assert [
        (failure["id"], failure["error"]["code"], failure["error"]["param"]) for failure in found["errors"]
    ] == [
        ("neither", "invalid_field", "items.1.image"),
        ("both", "invalid_field", "items.2.text"),
        ("../up", "invalid_field", "items.3.id"),
        ("broken", "unsupported_image", "items.4.image"),
        (None, "invalid_field", "items.5.id"),
        ("large", "metadata_too_large", "items.6.metadata"),
        ("odd", "invalid_field", "items.7.colour"),
        ("infinite", "invalid_field", "items.8.metadata"),
        (None, "invalid_field", "items.9"),
    ]
    assert client.get(f"/collections/{gallery}").json()["count"] == 5


def test_making_a_collection_again_changes_nothing(client, gallery):
    again = client.put(f"/collections/{gallery}")
    assert (again.status_code, again.json()["count"]) == (200, 4)
    assert client.put(f"/collections/{gallery}", json={"model": "tiny"}).json() == again.json()
    assert gallery in [one["name"] for one in client.get("/collections").json()["collections"]]


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/collections/none", None, (404, "collection_not_found", "collection")),
        ("DELETE", "/collections/none", None, (404, "collection_not_found", "collection")),
        ("GET", "/collections/none/items", None, (404, "collection_not_found", "collection")),
        ("GET", "/collections/none/items/a", None, (404, "collection_not_found", "collection")),
        (
            "POST",
            "/collections/none/items",
            {"items": [{"id": "a", "text": "a"}]},
            (404, "collection_not_found", "collection"),
        ),
        ("POST", "/collections/gallery/items", {}, (422, "invalid_field", "items")),
        ("POST", "/collections/gallery/items", [], (422, "invalid_field", None)),
        ("POST", "/collections/gallery/items", {"items": []}, (422, "invalid_field", "items")),
        ("POST", "/collections/gallery/items", {"items": [1] * 257}, (413, "too_many_items", "items")),
        ("POST", "/collections/gallery/items", {"items": [{}], "extra": 1}, (422, "invalid_field", "extra")),
        (
            "POST",
            "/collections/gallery/items",
            {"items": [{}], "model": "x"},
            (404, "model_not_found", "model"),
        ),
        ("PUT", "/collections/.hidden", {}, (422, "invalid_field", "name")),
        ("PUT", "/collections/a%20b", {}, (422, "invalid_field", "name")),
        ("PUT", "/collections/new", {"model": "x"}, (404, "model_not_found", "model")),
        ("PUT", "/collections/new", {"dim": 5}, (422, "invalid_field", "dim")),
        ("GET", "/collections/gallery/items?limit=0", None, (422, "invalid_field", "limit")),
        ("GET", "/collections/gallery/items?limit=1001", None, (422, "invalid_field", "limit")),
        ("GET", "/collections/gallery/items?limit=many", None, (422, "invalid_field", "limit")),
        ("GET", "/collections/gallery/items?cursor=%21", None, (400, "invalid_cursor", "cursor")),
        ("GET", "/collections/gallery/items?cursor=_w", None, (400, "invalid_cursor", "cursor")),
    ],
)
def test_what_is_wrong_is_named(client, gallery, method, path, body, expected):
    assert error(client.request(method, path, json=body)) == expected
