import re

import pytest


def test_health_and_readiness(client):
    for path in ("/healthz", "/readyz"):
        assert client.get(path).status_code == 200
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")


def test_models_in_openais_shape(client):
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert model["id"] == "tiny"
    assert model["object"] == "model"
    assert model["tasks"] == ["vqa", "classify", "embed", "retrieve", "rerank"]
    assert re.fullmatch(r"m-[0-9a-f]+", model["model_id"])
    assert re.fullmatch(r"s-[0-9a-f]+", model["space_id"])
    assert model["state"] == "ready"
    assert client.get("/v1/models/tiny").json() == model
    assert client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


def test_metrics_count_what_happened(server, client):
    line = 'vlmoe_requests_total{method="POST",route="/embed",status="200"}'
    # batches whose callers have left, in an earlier test, end before this one's
    client.post("/embed", json={"text": "a"})
    before = server.metric(line)
    batches = server.metric('vlmoe_batch_tokens_count{model="tiny"}')
    client.post("/embed", json={"text": "a"})
    assert server.metric(line) == before + 1
    assert server.metric('vlmoe_batch_tokens_count{model="tiny"}') == batches + 1
    text = client.get("/metrics").text
    for name in (
        "vlmoe_encode_seconds_bucket",
        "vlmoe_queue_seconds_bucket",
        "vlmoe_forward_seconds_bucket",
        "vlmoe_batches_total",
        "vlmoe_queue_depth",
        "vlmoe_engine_restarts_total",
        "vlmoe_requests_in_flight",
        "vlmoe_model_info",
    ):
        assert name in text
    assert all(line.startswith(("#", "vlmoe_")) for line in text.splitlines())


def test_unknown_paths_count_as_one(server, client):
    for path in ("/a", "/b", "/collections/x/y/z/../w"):
        client.get(path)
    assert 'route="/a"' not in client.get("/metrics").text


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/page/page.js", "/page/page.css", "/page/docs.js", "/page/docs.html"]
)
def test_pages_bring_everything_they_need(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"https?://", answer.text)
    for needed in re.findall(r'(?:src|href)="(/[^"]*)"', answer.text):
        assert client.get(needed).status_code == 200, needed
    # what the policy would block
    assert not re.search(r"<script>|<style|\son[a-z]+=|\sstyle=", answer.text)


@pytest.mark.parametrize(
    "path", ["/page/", "/page/../main.py", "/page/..%2Fmain.py", "/page/nothing.js", "/nothing", "/vqa/"]
)
def test_what_is_not_there(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_wrong_methods_say_the_right_one(client):
    answer = client.get("/vqa")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    answer = client.patch("/collections/a/items/b")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET")


def test_the_document_describes_every_route_with_examples(client):
    document = client.get("/openapi.json").json()
    text = client.get("/openapi.json").text
    schemas = document["components"]["schemas"]
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= set(schemas)
    for path in ("/vqa", "/classify", "/embed", "/retrieve"):
        post = document["paths"][path]["post"]
        assert set(post["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
        assert "413" in post["responses"]
    assert schemas["VqaRequest"]["properties"]["image"]["examples"]
    assert schemas["VqaRequest"]["required"] == ["image", "question"]
    assert "/collections/{name}/items/{id}" in document["paths"]
    operations = [op["operationId"] for methods in document["paths"].values() for op in methods.values()]
    assert len(operations) == len(set(operations))


def test_the_example_picture_of_the_document_is_one(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    example = schemas["VqaRequest"]["properties"]["image"]["examples"][0]
    assert client.post("/classify", json={"image": example}).status_code == 200
