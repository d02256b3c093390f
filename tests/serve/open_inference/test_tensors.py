import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_serve.errors import BadRequest, InvalidField, PayloadTooLarge
from vlmoe_serve.open_inference.tensors import BytesTensor, FloatTensor, check_bytes


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_bytes_survive_their_raw_form(elements):
    written = BytesTensor("A", (len(elements),), elements)
    assert list(BytesTensor.from_raw("A", (len(elements),), written.raw()).elements) == elements


def test_the_raw_form_is_tritons():
    assert BytesTensor("A", (1, 2), ["\u00e9", b"b"]).raw() == b"\x02\0\0\0\xc3\xa9\x01\0\0\0b"
    assert FloatTensor("B", np.array([[1.5, -2]], np.float32)).raw() == struct.pack("<2f", 1.5, -2)


@given(st.binary(max_size=30), st.integers(0, 4))
def test_any_bytes_are_read_or_refused(raw, count):
    try:
        read = BytesTensor.from_raw("A", (count,), raw)
    except (BadRequest, InvalidField):
        return
    assert read.raw() == raw


def test_a_flood_of_empty_elements_is_not_unpacked():
    with pytest.raises(InvalidField, match="holds 1 elements, the data 2"):
        BytesTensor.from_raw("A", (1,), b"\0" * 4_000_000)


def test_more_elements_than_a_task_takes_are_not_unpacked():
    with pytest.raises(PayloadTooLarge, match="A has 1000000 elements, the limit is 256"):
        BytesTensor.from_raw("A", (1_000_000,), b"\0" * 4_000_000)


@pytest.mark.parametrize("shape", [(-1,), (1,) * 9, (2,), (0,), (1, 2)])
def test_shapes_must_hold_what_is_there(shape):
    with pytest.raises(InvalidField):
        BytesTensor("A", shape, [b""])
    BytesTensor("A", (1, 1), [b""])
    BytesTensor("A", (), [b""])


def test_other_datatypes_are_refused():
    check_bytes("A", "BYTES")
    with pytest.raises(InvalidField, match="A: the datatype must be BYTES, got 'FP16'"):
        check_bytes("A", "FP16")
