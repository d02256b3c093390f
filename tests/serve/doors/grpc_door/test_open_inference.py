"""The Open Inference Protocol over gRPC, spoken by Triton's own client.

It runs in a process of its own: its messages and ours have the same names, and one process can hold them once.
"""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ...waiting import PATIENCE_S

QUESTIONS = ["is there a red circle", "a sleeping cat"]


@pytest.fixture
def ask(server, png, tmp_path):
    """ask(script): what the script prints as JSON; it has the client `triton` and two `pictures`."""

    def run(script):
        paths = []
        for number, picture in enumerate([png((200, 30, 30)), png((30, 200, 30))]):
            paths.append(tmp_path / f"{number}.png")
            paths[-1].write_bytes(picture)
        start = Path(__file__).with_name("triton_grpc.py").read_text()
        done = subprocess.run(
            [sys.executable, "-c", start + script, server.grpc, *map(str, paths)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_the_server_and_its_models_describe_themselves(ask):
    found = ask(
        """
about, vqa = client.get_server_metadata(), client.get_model_metadata("tiny.vqa", as_json=True)
say([client.is_server_live(), client.is_server_ready(), client.is_model_ready("tiny.vqa"), about.name, vqa])
"""
    )
    assert found[:4] == [True, True, True, "vlmoe"]
    assert found[4]["inputs"] == [
        {"name": "IMAGE", "datatype": "BYTES", "shape": ["-1"]},
        {"name": "QUESTION", "datatype": "BYTES", "shape": ["-1"]},
    ]
    assert [output["name"] for output in found[4]["outputs"]] == ["ANSWER", "SCORE"]


def test_answers_are_those_of_the_tasks(ask, client, png):
    found = ask(
        f"""
inputs = [tensor("IMAGE", pictures), tensor("QUESTION", {QUESTIONS!r})]
answer = client.infer("tiny.vqa", inputs, request_id="r-1", parameters={{"top_k": 2}})
vector = client.infer("tiny.embed", [tensor("TEXT", {QUESTIONS!r})]).as_numpy("EMBEDDING")
words = [[word.decode() for word in row] for row in answer.as_numpy("ANSWER").tolist()]
say([answer.get_response().id, words, answer.as_numpy("SCORE").tolist(), vector.tolist()])
"""
    )
    pictures = [base64.b64encode(png(colour)).decode() for colour in ((200, 30, 30), (30, 200, 30))]
    asked = [{"image": picture, "question": text} for picture, text in zip(pictures, QUESTIONS, strict=True)]
    vqa = client.post("/vqa", json={"inputs": asked, "top_k": 2}).json()["results"]
    assert found[0] == "r-1"
    assert found[1] == [[each["answer"] for each in one["answers"]] for one in vqa]
    for row, one in zip(found[2], vqa, strict=True):
        assert row == pytest.approx([each["score"] for each in one["answers"]], abs=1e-6)
    embedded = client.post("/embed", json={"inputs": [{"text": text} for text in QUESTIONS]}).json()
    assert found[3] == [each["embedding"] for each in embedded["results"]]


def test_elements_may_stand_in_the_tensors(ask):
    """As KServe's client sends them; the answer has the same form."""
    found = ask(
        """
from tritonclient.grpc import service_pb2 as pb
request = pb.ModelInferRequest(model_name="tiny.classify")
one = request.inputs.add(name="IMAGE", datatype="BYTES", shape=[2])
one.contents.bytes_contents.extend(pictures)
request.parameters["top_k"].int64_param = 1
answer = client._client_stub.ModelInfer(request)
contents = {output.name: output.contents for output in answer.outputs}
say([
    len(answer.raw_output_contents),
    [label.decode() for label in contents["LABEL"].bytes_contents],
    list(contents["SCORE"].fp32_contents),
])
"""
    )
    assert found[0] == 0
    assert [len(part) for part in found[1:]] == [2, 2]
    assert set(found[1]) <= {"round", "square", "star"}


def test_what_is_wrong_fails_the_call(ask):
    found = ask(
        """
from tritonclient.grpc import service_pb2 as pb

def failure(work):
    try:
        work()
    except Exception as error:
        status = getattr(error, "status", None)
        return [str(status() if status else error.code()), str(error)]

request = pb.ModelInferRequest(model_name="tiny.embed", raw_input_contents=[b"", b""])
request.inputs.add(name="TEXT", datatype="BYTES", shape=[1])
both = pb.ModelInferRequest(model_name="tiny.embed", raw_input_contents=[b""])
both.inputs.add(name="TEXT", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"a")

def shared():
    one = triton.InferInput("TEXT", [1], "BYTES")
    one.set_shared_memory("region", 8)
    return one

say([
    failure(lambda: client.infer("none", [tensor("TEXT", ["a"])])),
    failure(lambda: client.infer("tiny.embed", [tensor("IMAGE", [b"x", b"y"])])),
    failure(lambda: client.infer("tiny.embed", [tensor("OTHER", ["a"])])),
    failure(lambda: client._client_stub.ModelInfer(request)),
    failure(lambda: client._client_stub.ModelInfer(both)),
    failure(lambda: client.infer("tiny.embed", [shared()])),
    failure(
        lambda: client.infer(
            "tiny.embed",
            [tensor("TEXT", ["a"])],
            outputs=[triton.InferRequestedOutput("EMBEDDING", class_count=2)],
        )
    ),
])
"""
    )
    codes, messages = zip(*found, strict=True)
    assert codes == ("StatusCode.NOT_FOUND", *["StatusCode.INVALID_ARGUMENT"] * 6)
    for message, words in zip(
        messages,
        (
            "NAME.TASK",
            "IMAGE[0]",
            "TEXT",
            "2 raw contents for 1 inputs",
            "beside",
            "'shared_memory_",
            "'classification' is not supported",
        ),
        strict=True,
    ):
        assert words in message
