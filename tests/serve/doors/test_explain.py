"""Which experts handled an input: over HTTP and gRPC, on one rank and on two, beside the task's own answer."""

import pytest

from vlmoe_client import Client, GrpcClient
from vlmoe_client.proto.fields import all_fields_of
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2 as pb
from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.explanation import from_numbers
from vlmoe_model.images import open_image
from vlmoe_model.inputs import Job
from vlmoe_model.runner import Runner

QUESTION = "is there a red circle"
ROUTE = "/explain/routing"


@pytest.fixture(scope="module")
def bodies(image):
    """The same inputs for the routes that are explained: (task, body, head, text tokens, image tokens)."""
    return [
        ("vqa", {"image": image, "question": QUESTION, "top_k": 2}, "questions", 7, 17),
        ("classify", {"image": image}, "shapes", 0, 17),
        ("classify", {"text": "a cat", "text_pair": "a dog", "head": "entailment"}, "entailment", None, 0),
        ("classify", {"image": image, "labels": ["a cat", "a red circle"]}, "matching", 0, 17),
        ("embed", {"text": "a sleeping cat"}, "matching", 5, 0),
        ("embed", {"image": image}, "matching", 0, 17),
    ]


def test_an_explanation_has_the_answer_and_a_route_for_every_token(client, bodies):
    for task, body, head, num_text, num_image in bodies:
        answer = client.post(ROUTE, json={"task": task, **body})
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-model-id"].startswith("m-")
        found = answer.json()
        assert (found["model"], found["task"], found["head"]) == ("tiny", task, head)
        assert found["answer"] == client.post(f"/{task}", json=body).json()
        assert found["usage"] == found["answer"]["usage"]
        tokens = found["tokens"]
        num_text = len(tokens) if num_text is None else num_text
        assert len(tokens) == num_text + num_image
        if num_image:
            assert found["patch_grid"] == {"rows": 4, "columns": 4, "start": num_text + 1}
            assert tokens[num_text:] == ["[I_CLS]", *["[PATCH]"] * 16]
        else:
            assert found["patch_grid"] is None
        if num_text:
            assert (tokens[0], tokens[num_text - 1]) == ("[T_CLS]", "[T_SEP]")
        (layer,) = found["layers"]
        assert (layer["layer"], layer["num_experts"]) == (1, 4)
        pools = [token["pool"] for token in layer["tokens"]]
        # block 1 is where pairs share one dense layer
        is_pair = num_text and num_image
        assert pools == (["VL"] * len(tokens) if is_pair else ["T"] * num_text + ["V"] * num_image)
        for token in layer["tokens"]:
            assert len(token["experts"]) == len(token["gates"]) == 1
            assert 0 <= token["experts"][0] < 4
            assert 0.25 <= token["gates"][0] <= 1


def test_the_routes_are_those_of_the_network(client, checkpoint, png, image):
    runner = Runner.load(checkpoint, dtype="fp32", threads=1)
    example = open_directory(checkpoint).processor().example("shapes", image=open_image(png()))
    output = runner.run([Job("shapes", example, explain=True)])[0]
    (expected,) = from_numbers(output[3:], runner.config, 17)
    found = client.post(ROUTE, json={"task": "classify", "image": image}).json()["layers"][0]["tokens"]
    assert [token["experts"] for token in found] == expected.experts_TK.tolist()
    assert [token["gates"][0] for token in found] == pytest.approx(expected.gates_TK[:, 0], abs=2e-6)


def test_two_ranks_and_a_family_explain_as_one_rank_does(start, server, checkpoint, bodies):
    for more in (
        ("--ranks", "2"),
        ("--model", f"a={checkpoint}", "--model", f"b={checkpoint}"),
    ):
        other = start(*more)
        inputs = [{"task": task, **body} for task, body, *_ in bodies]
        found, expected = (
            one.client.post(ROUTE, json={"inputs": inputs}).json()["results"] for one in (other, server)
        )
        for one, of_one_rank in zip(found, expected, strict=True):
            assert one["layers"] == of_one_rank["layers"]
            assert one["tokens"] == of_one_rank["tokens"]
        assert other.end() == 0


def test_others_in_the_batch_notice_nothing(client, image):
    body = {"image": image, "question": QUESTION}
    alone = client.post("/vqa", json=body).json()
    inputs = [{"task": "vqa", **body}] * 16
    results = client.post(ROUTE, json={"inputs": inputs}).json()["results"]
    assert [one["answer"] for one in results] == [alone] * 16


def test_an_explained_embedding_is_not_kept(start, image):
    cached = start("--cache-mb", "8")
    for _ in range(2):
        found = cached.client.post(ROUTE, json={"task": "embed", "image": image})
        assert int(found.headers["x-batch-tokens"]) > 0
        assert len(found.json()["answer"]["embedding"]) == 8
    assert cached.metric('vlmoe_cache_entries{cache="embeddings"}') == 0
    assert cached.end() == 0


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 422, "task"),
        ({"task": "retrieve", "text": "a"}, 422, "task"),
        ({"task": "vqa", "image": "AAAA"}, 422, "question"),
        ({"task": "vqa", "image": "AAAA", "question": "a", "text": "b"}, 422, "text"),
        ({"task": "embed"}, 422, "image"),
        ({"task": "embed", "text": "a", "top_k": 3}, 422, "top_k"),
        ({"task": "embed", "image": "!"}, 400, "image"),
        ({"task": "embed", "image": "AAAA"}, 415, "image"),
        ({"task": "embed", "text": "a", "model": "other"}, 404, "model"),
        ({"task": "classify", "text": "a", "head": "none"}, 422, "head"),
        ({"task": "vqa", "inputs": [{"task": "vqa"}] * 17}, 413, "inputs"),
        ({"inputs": []}, 422, "inputs"),
    ],
)
def test_mistakes_name_their_field(client, body, status, param):
    answer = client.post(ROUTE, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_of_several_each_fails_alone(client, image):
    inputs = [{"image": image}, {"image": "!"}, {"task": "embed", "text": "a cat"}]
    results = client.post(ROUTE, json={"task": "classify", "inputs": inputs}).json()["results"]
    assert [one["error"]["param"] if "error" in one else one["task"] for one in results] == [
        "classify",
        "inputs.1.image",
        "embed",
    ]


def test_a_form_is_explained(client, png):
    form = client.post(
        ROUTE, files={"image": ("a.png", png())}, data={"task": "vqa", "question": QUESTION, "top_k": "1"}
    )
    assert form.status_code == 200, form.text
    assert len(form.json()["answer"]["answers"]) == 1


def test_grpc_answers_what_http_answers(stub, client, png, image, refused):
    answer, call = stub.ExplainRouting.with_call(
        pb.ExplainRoutingRequest(task="vqa", image=png(), question=QUESTION, top_k=2)
    )
    asked = {"task": "vqa", "image": image, "question": QUESTION, "top_k": 2}
    assert all_fields_of(answer)["routing"] == client.post(ROUTE, json=asked).json()
    assert int(dict(call.trailing_metadata())["x-batch-tokens"]) > 0
    found = refused(stub.ExplainRouting, pb.ExplainRoutingRequest())
    assert (found.code, found.reason, found.param) == ("INVALID_ARGUMENT", "invalid_field", "task")


def test_the_clients_read_it(server, png):
    with Client(server.url) as http, GrpcClient(f"grpc://{server.grpc}") as grpc_client:
        for client in (http, grpc_client):
            found = client.explain_routing("vqa", png(), question=QUESTION, top_k=1)
            assert found.answer == client.vqa(png(), QUESTION, top_k=1)
            assert (found.task, found.head, found.patch_grid.rows) == ("vqa", "questions", 4)
            assert {token.pool for token in found.layers[0].tokens} == {"VL"}
            assert found.timings.forward_ms > 0
            text = client.explain_routing("classify", text="a cat", head="entailment")
            assert text.patch_grid is None
            assert all(len(token.experts) == 1 for token in text.layers[0].tokens)
        labels = ["a cat", "a dog"]
        assert http.explain_routing("classify", png(), labels=labels) == grpc_client.explain_routing(
            "classify", png(), labels=labels
        )


def test_keys_and_overload_are_those_of_every_task(start, tmp_path, image):
    (tmp_path / "keys").write_text("caller-key\n")
    server = start("--api-key-file", str(tmp_path / "keys"), "--max-queue-ms", "1")
    body = {"task": "classify", "image": image}
    assert server.client.post(ROUTE, json=body).status_code == 401
    headers = {"x-api-key": "caller-key"}
    assert server.client.post(ROUTE, json=body, headers=headers).status_code == 200
    late = server.client.post(ROUTE, json=body, headers={**headers, "x-request-timeout-ms": "1"})
    assert late.status_code in (200, 429, 504)
    assert server.end() == 0
