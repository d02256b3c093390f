"""Calls that carry several inputs."""

import pytest

from .reading import QUESTION, error


def test_of_several_inputs_each_fails_alone_and_in_its_place(client, image):
    inputs = [
        {"image": image, "question": QUESTION},
        {"image": "!", "question": QUESTION},
        {"question": QUESTION},
        {"image": image, "question": "cat " * 100},
        {"image": image, "question": QUESTION, "top_k": 0},
        {"image": image, "question": QUESTION, "model": "other"},
        "text",
        {"image": image, "question": "a cat", "top_k": 1},
    ]
    answer = client.post("/vqa", json={"inputs": inputs, "top_k": 2})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [
        result["error"]["param"] if "error" in result else len(result["answers"]) for result in results
    ] == [
        2,
        "inputs.1.image",
        "inputs.2.image",
        "inputs.3.question",
        "inputs.4.top_k",
        "inputs.5.model",
        "inputs.6",
        1,
    ]
    assert [result["error"]["code"] for result in results if "error" in result] == [
        "invalid_base64",
        "invalid_field",
        "text_too_long",
        "invalid_field",
        "model_not_found",
        "invalid_field",
    ]
    assert results[0] == client.post("/vqa", json={**inputs[0], "top_k": 2}).json()
    assert float(answer.headers["x-forward-ms"]) > 0


def test_a_full_call_is_answered_in_order_and_a_fuller_one_refused(client):
    texts = [f"{'cat ' * (n % 20 + 1)}" for n in range(256)]
    found = client.post("/embed", json={"inputs": [{"text": text} for text in texts]}).json()["results"]
    assert [one["usage"]["text_tokens"] for one in found] == [n % 20 + 3 for n in range(256)]
    by_length = {one["usage"]["text_tokens"]: one["embedding"] for one in found[:20]}
    for one in found:
        assert one["embedding"] == pytest.approx(by_length[one["usage"]["text_tokens"]], abs=1e-5)
    refused = client.post("/embed", json={"inputs": [{"text": "a"}] * 257})
    assert error(refused) == (413, "too_many_inputs", "inputs")
