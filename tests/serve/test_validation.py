import pytest

from vlmoe_serve.collection_schemas import ItemInput
from vlmoe_serve.errors import InvalidField
from vlmoe_serve.schemas import ClassifyRequest, RetrieveRequest, VqaRequest
from vlmoe_serve.validation import check, checked_list, shown

GOOD = {"image": "x", "question": "a"}


def test_what_is_right_passes():
    assert check(VqaRequest, {**GOOD, "top_k": 3}).top_k == 3
    assert check(VqaRequest, {**GOOD, "image": b"\x89PNG"}).image == b"\x89PNG"
    assert check(VqaRequest, {**GOOD, "top_k": "3"}, strict=False).top_k == 3
    assert check(RetrieveRequest, {"collection": "g", "rerank": True}).rerank is True


@pytest.mark.parametrize(
    ("schema", "body", "param", "says"),
    [
        (VqaRequest, {"image": "x"}, "question", "question is missing"),
        (VqaRequest, {**GOOD, "colour": 1}, "colour", "colour is not a field"),
        (VqaRequest, {**GOOD, "top_k": 0}, "top_k", "greater than or equal to 1, got 0"),
        (VqaRequest, {**GOOD, "top_k": "3"}, "top_k", "valid integer, got '3'"),
        (VqaRequest, {**GOOD, "image": ["x"]}, "image", "base64, or a data: URL, got a list of 1"),
        (VqaRequest, {**GOOD, "question": {}}, "question", "got an object"),
        (VqaRequest, "text", None, "the body: input should be an object, got 'text'"),
        (
            ClassifyRequest,
            {"text": "a", "labels": []},
            "labels",
            "labels: input should be a list of at least 1, got",
        ),
        (ClassifyRequest, {"labels": ["a", 1]}, "labels.1", "labels.1"),
        (RetrieveRequest, {"collection": "g", "rerank": 1}, "rerank", 'true, false or "auto", got 1'),
        (RetrieveRequest, {"collection": "g", "rerank": "true"}, "rerank", "rerank"),
        (ItemInput, {"id": "a", "metadata": []}, "metadata", "got a list of 0"),
    ],
)
def test_the_first_thing_that_is_wrong_is_named(schema, body, param, says):
    with pytest.raises(InvalidField) as caught:
        check(schema, body)
    assert caught.value.param == param
    assert says in caught.value.message


def test_the_path_starts_with_the_prefix():
    for body, param in (({"image": "x"}, "inputs.3.question"), (5, "inputs.3")):
        with pytest.raises(InvalidField) as caught:
            check(VqaRequest, body, prefix="inputs.3.")
        assert caught.value.param == param


@pytest.mark.parametrize(
    ("value", "got"), [([], "a list of 0"), ({"a": 1}, "an object"), (None, "None"), ("x" * 500, "'xxx")]
)
def test_what_is_no_list_of_inputs_is_shown(value, got):
    with pytest.raises(InvalidField, match="inputs must be a list of 1 to 4, got ") as caught:
        checked_list(value, "inputs", 4)
    assert got in caught.value.message
    assert len(caught.value.message) < 120


def test_a_flood_of_fields_is_one_error():
    """In pydantic each would be an error of its own."""
    flood = {**GOOD, **{f"field-{i}": 0 for i in range(100_000)}}
    for body, param in (
        (flood, "inputs.3.field-0"),
        ({**GOOD, "x" * 100: 0, **flood}, f"inputs.3.{'x' * 60}..."),
    ):
        with pytest.raises(InvalidField) as caught:
            check(VqaRequest, body, prefix="inputs.3.")
        assert caught.value.param == param
        assert caught.value.message == f"{param.removeprefix('inputs.3.')} is not a field of this request"
        assert caught.value.__context__ is None


def test_long_values_are_cut():
    assert shown("x" * 10**6) == "'" + "x" * 59 + "..."
    assert shown("short") == "'short'"
