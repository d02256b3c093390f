"""The Open Inference Protocol over HTTP, spoken by Triton's own client and by hand."""

import base64
import json

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from ...waiting import PATIENCE_S

QUESTIONS = ["is there a red circle", "what shape is in the image", "a sleeping cat"]


@pytest.fixture
def triton_client(server):
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def pictures(png):
    return [png((200, 30, 30)), png((30, 200, 30)), png((30, 30, 200), (40, 24))]


def tensor(name, elements, *, binary=True):
    given = triton.InferInput(name, [len(elements)], "BYTES")
    given.set_data_from_numpy(np.array(elements, dtype=np.object_), binary_data=binary)
    return given


def body(*inputs, **more):
    return {
        "inputs": [
            {"name": name, "shape": [len(data)], "datatype": "BYTES", "data": data} for name, data in inputs
        ],
        **more,
    }


def expected(client, task, inputs):
    answer = client.post(f"/{task}", json={"inputs": inputs})
    return answer.json()["results"]


def test_the_server_and_its_models_describe_themselves(triton_client, client):
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    about = triton_client.get_server_metadata()
    assert (about["name"], "binary_tensor_data" in about["extensions"]) == ("vlmoe", True)
    vqa = triton_client.get_model_metadata("tiny.vqa")
    assert vqa["inputs"] == [
        {"name": "IMAGE", "datatype": "BYTES", "shape": [-1]},
        {"name": "QUESTION", "datatype": "BYTES", "shape": [-1]},
    ]
    assert vqa["outputs"] == [
        {"name": "ANSWER", "datatype": "BYTES", "shape": [-1, -1]},
        {"name": "SCORE", "datatype": "FP32", "shape": [-1, -1]},
    ]
    assert (vqa["name"], vqa["versions"]) == ("tiny.vqa", ["1"])
    classify = triton_client.get_model_metadata("tiny.classify", "1")
    assert [each["name"] for each in classify["inputs"]] == ["IMAGE", "TEXT", "TEXT_PAIR"]
    embed = triton_client.get_model_metadata("tiny.embed")
    assert embed["outputs"] == [{"name": "EMBEDDING", "datatype": "FP32", "shape": [-1, 8]}]
    assert embed["parameters"]["space_id"] == client.get("/v1/models").json()["data"][0]["space_id"]
    assert triton_client.is_model_ready("tiny.vqa")
    for name, version in (("tiny", ""), ("tiny.retrieve", ""), ("other.vqa", ""), ("tiny.vqa", "2")):
        assert not triton_client.is_model_ready(name, version)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_questions_are_answered_in_every_form(triton_client, client, pictures, binary_in, binary_out):
    encoded = [base64.b64encode(picture).decode() for picture in pictures]
    want = expected(
        client,
        "vqa",
        [{"image": i, "question": q, "top_k": 2} for i, q in zip(encoded, QUESTIONS, strict=True)],
    )
    found = triton_client.infer(
        "tiny.vqa",
        [
            tensor("IMAGE", pictures if binary_in else encoded, binary=binary_in),
            tensor("QUESTION", QUESTIONS, binary=binary_in),
        ],
        outputs=[triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("SCORE", "ANSWER")],
        parameters={"top_k": 2},
        request_id="r-7",
    )
    texts = [[one["answer"] for one in each["answers"]] for each in want]
    answers = found.as_numpy("ANSWER")
    assert answers.shape == (3, 2)
    assert [[a.decode() if binary_out else a for a in row] for row in answers] == texts
    scores = found.as_numpy("SCORE")
    assert scores.dtype == np.float32
    assert scores == pytest.approx(np.array([[one["score"] for one in each["answers"]] for each in want]))
    response = found.get_response()
    assert [output["name"] for output in response["outputs"]] == ["SCORE", "ANSWER"]
    assert (response["id"], response["model_name"], response["model_version"]) == ("r-7", "tiny.vqa", "1")


def test_embeddings_and_labels_are_what_the_other_routes_say(triton_client, client, pictures, image):
    found = triton_client.infer("tiny.embed", [tensor("TEXT", QUESTIONS)])
    want = [each["embedding"] for each in expected(client, "embed", [{"text": text} for text in QUESTIONS])]
    assert np.array_equal(found.as_numpy("EMBEDDING"), np.array(want, np.float32))
    # base64 is understood in a binary tensor too
    for element in (pictures[0], image.encode(), f"data:image/png;base64,{image}".encode()):
        found = triton_client.infer("tiny.embed", [tensor("IMAGE", [element])])
        want = client.post("/embed", json={"image": image}).json()["embedding"]
        assert np.array_equal(found.as_numpy("EMBEDDING"), np.array([want], np.float32))
    pair = triton_client.infer(
        "tiny.classify", [tensor("TEXT_PAIR", ["a circle"]), tensor("TEXT", ["a cat"])]
    )
    want = client.post("/classify", json={"text": "a cat", "text_pair": "a circle"}).json()["labels"]
    assert [each.decode() for each in pair.as_numpy("LABEL")[0]] == [one["label"] for one in want]
    named = triton_client.infer(
        "tiny.classify", [tensor("IMAGE", pictures)], parameters={"head": "shapes", "top_k": 1}
    )
    assert named.as_numpy("LABEL").shape == named.as_numpy("SCORE").shape == (3, 1)


def test_a_call_by_hand(client, image):
    request = body(("TEXT", ["a cat", "a dog"]), model_name="tiny.embed")
    answer = client.post("/v2/models/tiny.embed/infer", json=request, headers={"x-request-id": "me"})
    assert answer.status_code == 200
    found = answer.json()
    assert set(found) == {"model_name", "model_version", "outputs"}
    (output,) = found["outputs"]
    assert {**output, "data": len(output["data"])} == {
        "name": "EMBEDDING",
        "datatype": "FP32",
        "shape": [2, 8],
        "data": 16,
    }
    assert answer.headers["x-request-id"] == "me"
    assert int(answer.headers["x-batch-tokens"]) >= 4
    assert client.post("/v2/models/tiny.embed/versions/1/infer", json=request).json() == found


def test_items_of_a_call_share_batches(server, client):
    line = 'vlmoe_batch_jobs_sum{model="tiny"}'
    batches = 'vlmoe_batch_jobs_count{model="tiny"}'
    # batches whose callers have left, in an earlier test, end before this one's
    client.post("/embed", json={"text": "a"})
    before = server.metric(line), server.metric(batches)
    texts = [f"{word} cat" for word in ("a", "two", "the", "is", "in", "of") * 4]
    assert client.post("/v2/models/tiny.embed/infer", json=body(("TEXT", texts))).status_code == 200
    assert server.metric(line) == before[0] + len(texts)
    assert server.metric(batches) < before[1] + len(texts)
    counted = 'vlmoe_requests_total{method="POST",route="/v2/models/{model}/infer",status="200"}'
    assert server.metric(counted) >= 1


def test_the_first_item_that_fails_fails_the_call_and_is_named(triton_client, pictures):
    with pytest.raises(InferenceServerException) as failed:
        triton_client.infer(
            "tiny.vqa",
            [tensor("IMAGE", [pictures[0], b"\x00\x01nothing", pictures[2]]), tensor("QUESTION", QUESTIONS)],
        )
    assert failed.value.status() == "415"
    assert failed.value.message().startswith("IMAGE[1]: ")
    with pytest.raises(InferenceServerException) as failed:
        triton_client.infer("tiny.embed", [tensor("TEXT", [b"a", b"b", b"\xff\xfe"])])
    assert (failed.value.status(), failed.value.message()[:23]) == ("400", "TEXT[2]: not UTF-8: 'ut")


def image_and_question(**more):
    return body(("IMAGE", ["AAAA"]), ("QUESTION", ["a"]), **more)


def changed(**fields):
    return {"inputs": [{"name": "TEXT", "shape": [1], "datatype": "BYTES", "data": ["a"], **fields}]}


@pytest.mark.parametrize(
    ("model", "content", "status", "part"),
    [
        ("tiny.vqa", image_and_question(), 415, "IMAGE[0]"),
        ("tiny.vqa", body(("IMAGE", ["AAAA"]), ("QUESTION", [""])), 422, "QUESTION[0]"),
        ("tiny.vqa", body(("IMAGE", ["AAAA"])), 422, "takes IMAGE with QUESTION; got 'IMAGE'"),
        ("tiny.vqa", body(("IMAGE", ["A", "B"]), ("QUESTION", ["a"])), 422, "QUESTION has 1 elements"),
        ("tiny.vqa", image_and_question(parameters={"top_k": 0}), 422, "top_k"),
        ("tiny.vqa", image_and_question(parameters={"top_k": "3"}), 422, "top_k"),
        ("tiny.vqa", image_and_question(parameters={"sequence_id": 3}), 422, "no parameter 'sequence_id'"),
        ("tiny.vqa", image_and_question(parameters={"timeout": -1}), 422, "timeout"),
        ("tiny.vqa", image_and_question(parameters={"priority": 9}), 422, "priority"),
        (
            "tiny.vqa",
            image_and_question(parameters={str(n): [] for n in range(65)}),
            422,
            "at most 64",
        ),
        ("tiny.vqa", image_and_question(outputs=[{"name": "LABEL"}]), 422, "no output 'LABEL'"),
        (
            "tiny.vqa",
            image_and_question(outputs=[{"name": "SCORE", "parameters": {"classification": 3}}]),
            422,
            "'classification' is not supported",
        ),
        (
            "tiny.classify",
            body(("TEXT", ["a"]), ("IMAGE", ["A"])),
            422,
            "IMAGE or TEXT or TEXT with TEXT_PAIR",
        ),
        ("tiny.embed", body(("TEXT", ["a"]), ("TEXT", ["b"])), 422, "twice"),
        ("tiny.embed", body(("TEXT", [])), 422, "at least 1"),
        ("tiny.embed", body(("TEXT", ["a"] * 257)), 413, "the limit is 256"),
        ("tiny.embed", changed(shape=[2]), 422, "shape [2] holds 2 elements, the data 1"),
        ("tiny.embed", changed(shape=[1, 1]), 422, "must be [n]"),
        ("tiny.embed", changed(shape=[-1]), 422, "no shape"),
        ("tiny.embed", changed(shape=[2**62, 2**62]), 422, "the data 1"),
        ("tiny.embed", changed(datatype="FP32"), 422, "must be BYTES, got 'FP32'"),
        ("tiny.embed", changed(data=[["a"]]), 422, "element 0 must be a string"),
        ("tiny.embed", changed(data=[1]), 422, "element 0 must be a string"),
        ("tiny.embed", changed(data=None), 422, "neither data nor"),
        ("tiny.embed", changed(parameters={"binary_data_size": 1}), 422, "has data and also"),
        ("tiny.embed", changed(data=None, parameters={"binary_data_size": 9}), 400, "beyond the end"),
        ("tiny.embed", changed(data=None, parameters={"binary_data_size": 1.5}), 422, "whole number"),
        ("tiny.embed", changed(parameters={"shared_memory_region": "x"}), 422, "not supported"),
        ("tiny.embed", {"inputs": []}, 422, "inputs"),
        ("tiny.embed", [], 422, "an object"),
        ("other.embed", changed(), 404, "tiny.vqa, tiny.classify, tiny.embed"),
        ("tiny.rerank", changed(), 404, "no model 'tiny.rerank'"),
    ],
)
def test_every_mistake_is_one_sentence(client, model, content, status, part):
    answer = client.post(f"/v2/models/{model}/infer", json=content)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert part in answer.json()["error"]


@pytest.mark.parametrize(
    ("header", "tail", "status", "part"),
    [
        ("0", b"", 400, "not JSON"),
        ("x", b"", 400, "whole number"),
        ("99999999999", b"", 400, "whole number"),
        ("-1", b"", 400, "whole number"),
        (None, b"\x01\x00\x00\x00a", 400, "not JSON"),
        ("all", b"\x02\x00\x00\x00a", 400, "element 0 reaches beyond"),
        ("all", b"\x00\x00\x00", 400, "beyond the end"),
        ("all", b"\x01\x00\x00\x00ab", 400, "1 bytes behind the JSON"),
        ("all", b"\x00\x00\x00\x00\x00", 400, "element 1 reaches beyond"),
    ],
)
def test_bytes_behind_the_json_are_counted(client, header, tail, status, part):
    head = json.dumps(changed(data=None, parameters={"binary_data_size": 5})).encode()
    value = str(len(head)) if header == "all" else header
    headers = {} if value is None else {"inference-header-content-length": value}
    answer = client.post("/v2/models/tiny.embed/infer", content=head + tail, headers=headers)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert part in answer.json()["error"]


def test_outside_the_routes_errors_below_v2_have_the_protocols_shape_too(client):
    for answer in (client.get("/v2/nothing"), client.get("/v2/models/tiny.embed/infer")):
        assert isinstance(answer.json()["error"], str)
    large = client.post("/v2/models/tiny.embed/infer", content=b" " * 33_000_000)
    assert (large.status_code, isinstance(large.json()["error"], str)) == (413, True)
    assert isinstance(client.get("/v2nothing").json()["error"], dict)


def test_timeouts_in_microseconds_and_priorities_are_obeyed(server, client, triton_client):
    with server.engine_paused():
        with pytest.raises(InferenceServerException) as failed:
            triton_client.infer("tiny.embed", [tensor("TEXT", ["a"])], timeout=150_000)
        assert failed.value.status() == "504"
        late = client.post(
            "/v2/models/tiny.embed/infer", json=changed(), headers={"x-request-timeout-ms": "100"}
        )
        assert late.status_code == 504
    assert triton_client.infer("tiny.embed", [tensor("TEXT", ["a"])], priority=1).as_numpy("EMBEDDING").size


def test_keys_are_asked_for(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("the-key\n")
    server = start("--api-key-file", str(keys))
    answer = httpx.get(f"{server.url}/v2/health/live", timeout=PATIENCE_S)
    assert (answer.status_code, isinstance(answer.json()["error"], str)) == (401, True)
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        found = client.infer(
            "tiny.embed", [tensor("TEXT", ["a"])], headers={"Authorization": "Bearer the-key"}
        )
        assert found.as_numpy("EMBEDDING").shape == (1, 8)
    server.end()
