"""`/v1/embeddings`, spoken by OpenAI's own client."""

import base64

import numpy as np
import openai
import pytest


@pytest.fixture
def client_of_openai(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def embedded(client, **inputs):
    return client.post("/embed", json=inputs).json()


def test_texts_and_pictures_are_embedded_as_the_other_route_does(client_of_openai, client, image):
    found = client_of_openai.embeddings.create(
        model="tiny", input=["a cat", {"image": image}, {"text": "two pairs of scissors"}]
    )
    want = [
        embedded(client, **inputs)
        for inputs in ({"text": "a cat"}, {"image": image}, {"text": "two pairs of scissors"})
    ]
    assert [one.index for one in found.data] == [0, 1, 2]
    # the client asks for base64 by itself and unpacks it
    assert [one.embedding for one in found.data] == [
        pytest.approx(one["embedding"], abs=1e-7) for one in want
    ]
    usages = [one["usage"] for one in want]
    num_tokens = sum(usage["image_tokens"] + usage["text_tokens"] for usage in usages)
    assert found.usage.prompt_tokens == found.usage.total_tokens == num_tokens
    assert (found.object, found.data[0].object, found.model) == ("list", "embedding", "tiny")
    assert found.space_id == want[0]["space_id"]


def test_one_text_in_both_encodings(client_of_openai, client, image):
    want = embedded(client, text="a cat")["embedding"]
    plain = client_of_openai.embeddings.create(
        model="tiny", input="a cat", encoding_format="float", dimensions=8, user="me"
    )
    assert plain.data[0].embedding == want
    raw = client.post("/v1/embeddings", json={"input": "a cat", "encoding_format": "base64"})
    packed = base64.b64decode(raw.json()["data"][0]["embedding"])
    assert np.array_equal(np.frombuffer(packed, "<f4"), np.array(want, np.float32))
    assert float(raw.headers["x-forward-ms"]) >= 0
    picture = client.post("/v1/embeddings", json={"input": {"image": image}}).json()
    assert picture["data"][0]["embedding"] == embedded(client, image=image)["embedding"]


@pytest.mark.parametrize(
    ("fields", "kind", "code", "param", "part"),
    [
        ({"model": "gpt"}, openai.NotFoundError, "model_not_found", "model", "served are tiny"),
        (
            {"dimensions": 4},
            openai.UnprocessableEntityError,
            "invalid_field",
            "dimensions",
            "dimensions must be 8",
        ),
        ({"input": [1, 2]}, openai.UnprocessableEntityError, "invalid_field", "input.0", "arrays of tokens"),
        ({"input": [[1], [2]]}, openai.UnprocessableEntityError, "invalid_field", "input.0", "send the text"),
        (
            {"input": ["a", {"image": "AAAA"}]},
            openai.APIStatusError,
            "unsupported_image",
            "input.1.image",
            "image",
        ),
        (
            {"input": ["a", ""]},
            openai.UnprocessableEntityError,
            "invalid_field",
            "input.1.text",
            "at least 1",
        ),
        ({"input": []}, openai.UnprocessableEntityError, "invalid_field", "input", "list of 1 to 256"),
        ({"input": ["a"] * 257}, openai.APIStatusError, "too_many_input", "input", "the limit is 256"),
        (
            {"input": {"image": "a", "text": "b"}},
            openai.UnprocessableEntityError,
            "invalid_field",
            "input",
            "must be a string",
        ),
        (
            {"encoding_format": "hex"},
            openai.UnprocessableEntityError,
            "invalid_field",
            "encoding_format",
            "'float'",
        ),
    ],
)
def test_the_client_shows_what_is_wrong(client_of_openai, fields, kind, code, param, part):
    with pytest.raises(kind) as failed:
        client_of_openai.embeddings.create(**{"model": "tiny", "input": "a cat", **fields})
    assert (failed.value.code, failed.value.param) == (code, param)
    assert part in failed.value.body["message"]
    assert part in str(failed.value)


def test_the_models_are_listed_for_the_client_too(client_of_openai):
    assert [model.id for model in client_of_openai.models.list()] == ["tiny"]


def test_keys_as_the_client_sends_them(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("the-key\n")
    server = start("--api-key-file", str(keys))
    for key, works in (("the-key", True), ("another", False)):
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
            if works:
                assert len(client.embeddings.create(model="tiny", input="a").data[0].embedding) == 8
            else:
                with pytest.raises(openai.AuthenticationError, match="a valid key is needed"):
                    client.embeddings.create(model="tiny", input="a")
    server.end()
