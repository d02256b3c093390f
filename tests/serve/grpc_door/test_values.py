import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_client.proto.inference import grpc_predict_v2_pb2 as oip
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2 as pb
from vlmoe_serve.errors import PayloadTooLarge
from vlmoe_serve.grpc_door.methods import MAX_VALUES, parse
from vlmoe_serve.grpc_door.values import holds_more_than

FILTER = {"or": [{"kind": "shoe"}, {"year": {"gte": 1990, "lt": 2000}}, {"not": {"sold": True}}]}


def count(message):
    """The same, of a message that has been read: slow, large and obvious."""
    total = 0
    for field, value in message.ListFields():
        if field.message_type is None:
            packed = field.is_repeated and field.type not in (field.TYPE_STRING, field.TYPE_BYTES)
            total += 1 if packed or not field.is_repeated else len(value)
        elif field.message_type.GetOptions().map_entry:
            held = [each for each in value.values() if hasattr(each, "ListFields")]
            # an entry, its name, and its value
            total += 3 * len(value) + sum(map(count, held))
        elif field.is_repeated:
            total += sum(1 + count(each) for each in value)
        else:
            total += 1 + count(value)
    return total


MESSAGES = [
    pb.EmbedRequest(),
    pb.EmbedRequest(text="a" * 1000),
    pb.VqaRequest(image=bytes(5000), question="what", top_k=3),
    pb.RerankRequest(query="a", images=[b"x", b"", b"yy"] * 50),
    pb.RetrieveRequest(collection="g", text="a", filter=FILTER),
    pb.UpsertItemsRequest(
        collection="g", items=[pb.ItemInput(id=str(i), metadata=FILTER) for i in range(40)]
    ),
    pb.VqaStreamRequest(id="7", request=pb.VqaRequest(image=bytes(300), question="what")),
    oip.ModelInferRequest(
        model_name="a",
        inputs=[oip.ModelInferRequest.InferInputTensor(name="TEXT", datatype="BYTES")],
        parameters={"top_k": oip.InferParameter(int64_param=-1), "x": oip.InferParameter(bool_param=True)},
        raw_input_contents=[b"\0" * 400],
    ),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_field_of_every_part_counts(message):
    content, exact = message.SerializeToString(), count(message)
    assert holds_more_than(exact - 1, content, message.DESCRIPTOR) or exact == 0
    assert not holds_more_than(exact, content, message.DESCRIPTOR)
    assert parse(type(message), content) == message


def test_lists_of_numbers_count_by_their_bytes():
    one = oip.ModelInferRequest.InferInputTensor(shape=[1] * 1000)
    content = oip.ModelInferRequest(inputs=[one]).SerializeToString()
    assert holds_more_than(999, content, oip.ModelInferRequest.DESCRIPTOR)
    assert not holds_more_than(1010, content, oip.ModelInferRequest.DESCRIPTOR)


@given(st.binary(max_size=200), st.sampled_from(MESSAGES), st.integers(0, 300))
def test_any_bytes_are_counted(content, message, at):
    """No error, no endless loop; what is no message is for the parser to refuse."""
    valid = message.SerializeToString()
    for each in (content, valid[:at], valid[:at] + content + valid[at:]):
        holds_more_than(50, each, message.DESCRIPTOR)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (pb.RerankRequest, pb.RerankRequest(texts=[""])),
        (pb.UpsertItemsRequest, pb.UpsertItemsRequest(items=[pb.ItemInput()])),
        (oip.ModelInferRequest, oip.ModelInferRequest(inputs=[oip.ModelInferRequest.InferInputTensor()])),
    ],
)
def test_a_flood_of_empty_parts_is_refused_before_it_is_read(kind, part):
    one = part.SerializeToString()[:2]
    assert len(getattr(parse(kind, one * 100), part.ListFields()[0][0].name)) == 100
    with pytest.raises(PayloadTooLarge) as caught:
        parse(kind, one * (MAX_VALUES + 1))
    assert caught.value.code == "too_many_values"


def test_a_large_picture_is_one_value():
    image = bytes(4_000_000)
    assert parse(pb.EmbedRequest, pb.EmbedRequest(image=image).SerializeToString()).image == image
