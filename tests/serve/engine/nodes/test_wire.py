import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_model.inputs import Example, Job
from vlmoe_model.routing_mode import RoutingMode
from vlmoe_serve.engine.nodes import wire
from vlmoe_serve.engine.nodes.wire import WireError, pack, unpack
from vlmoe_serve.engine.orders import LayerMove, MoveState, Orders
from vlmoe_serve.engine.protocol import Jobs, LoadFailed, Ping, Pong, RankDone
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.placement import Placement
from vlmoe_serve.placement.rebalancing import RebalanceOptions
from vlmoe_serve.placement.trace_format import COLUMNS, Rows


def sent(message: object) -> Any:
    lengths, head, *rest = (bytes(part) for part in pack(message))
    body = bytearray(b"".join(rest))
    assert wire.LENGTHS.unpack(lengths) == (len(head), len(body))
    return unpack(head, body)


@pytest.mark.parametrize(
    "message",
    [
        wire.NodeHello(1, {"--ranks": "4", "the checkpoint": "m-1"}),
        wire.Welcome("abc"),
        wire.Refused("no", final=True),
        wire.RankHello(3, "abc", "fp32 with cpu"),
        wire.Begin("10.0.0.1", 2000, None, RoutingMode(0.5, "reroute"), RebalanceOptions(), Costs()),
        wire.Put("0/1", b"\0\xff"),
        wire.Ask("0/1"),
        wire.Value(b""),
        wire.Joined(),
        wire.GroupUp(),
        LoadFailed("\N{SNOWMAN} no such file"),
        RankDone((b"abcd", b""), rows=None),
        Jobs((), orders=Orders(True, LayerMove(2, (((0, 2), (1,)), ((1, 3), (0,)))))),
        RankDone((), moves=MoveState(True, "no")),
        Ping(7),
        Pong(8),
    ],
)
def test_messages_arrive_as_they_were(message: object) -> None:
    assert sent(message) == message


def test_jobs_arrive_with_their_arrays() -> None:
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    tokens = np.array([2, 5, 3], np.int32)
    jobs = (
        Job("a", Example(image, tokens)),
        Job("b", Example(tokens=tokens), True, RoutingMode(top_k=1)),
        Job("a", Example(image[::2])),
    )
    came = sent(Jobs(jobs, traced=True))
    assert came.traced
    assert [job.head for job in came.jobs] == ["a", "b", "a"]
    assert [(job.explain, job.mode) for job in came.jobs] == [(job.explain, job.mode) for job in jobs]
    for job, copy in zip(jobs, came.jobs, strict=True):
        for before, after in zip(
            (job.example.image, job.example.tokens), (copy.example.image, copy.example.tokens), strict=True
        ):
            assert (before is None) == (after is None)
            if before is not None:
                assert after.dtype == before.dtype
                np.testing.assert_array_equal(after, before)
    assert sent(Jobs(())).jobs == ()


def test_a_placement_and_rows_of_a_trace_arrive() -> None:
    slots = np.array([[[0, 2], [1, 3]]], np.int32)
    placement = sent(wire.Begin("", 1, Placement((2,), (2, 2), slots), RoutingMode(), None, None)).placement
    assert (placement.layers, placement.pools) == ((2,), (2, 2))
    np.testing.assert_array_equal(placement.slots_LGK, slots)
    rows = Rows(**{name: np.arange(3).astype(dtype) for name, dtype in COLUMNS.items()})
    came = sent(RankDone((), rows=rows)).rows
    for name, dtype in COLUMNS.items():
        assert getattr(came, name).dtype == dtype
        np.testing.assert_array_equal(getattr(came, name), getattr(rows, name))


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (b"", b""),
        (b"\x80\x04N.", b""),
        (b"7", b""),
        (b"{}", b""),
        (b'{"Popen": {}}', b""),
        (b'{"Ping": {}}', b""),
        (b'{"Ping": {"id": 1, "more": 2}}', b""),
        (b'{"Ping": {"id": 1}}', b"left over"),
        (b'{"Value": {"value": {"bytes": 5}}}', b"four"),
        (b'{"Value": {"value": {"bytes": -1}}}', b""),
        (b'{"Value": {"value": {"bytes": "5"}}}', b"fives"),
        (b'{"Jobs": {"jobs": [{"Job": {"head": "a", "example": {"Example": {}}}}]}}', b""),
        (b'{"Value": {"value": {"array": ["object", [1]]}}}', b"12345678"),
        (b'{"Value": {"value": {"array": ["uint8", [-1, -4]]}}}', b"four"),
        (b'{"Value": {"value": {"array": ["uint8", [1e9]]}}}', b"four"),
        (b'{"Value": {"value": {"array": ["uint8"]}}}', b"four"),
        (b"[" * 100_000, b""),
        (b'{"bytes": 4}', b"four"),
    ],
)
def test_what_is_no_message_is_refused(head: bytes, rest: bytes) -> None:
    with pytest.raises(WireError):
        unpack(head, bytearray(rest))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*wire.MESSAGES, "bytes", "array", "map", "jobs", "value", "id"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(json_values, st.binary(max_size=64))
def test_nothing_else_comes_out_whatever_goes_in(value: object, rest: bytes) -> None:
    try:
        message = unpack(json.dumps(value).encode(), bytearray(rest))
    except WireError:
        return
    assert type(message) in wire.MESSAGES.values()
