import asyncio

import pytest

from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2 as pb
from vlmoe_serve.errors import RequestTooSlow
from vlmoe_serve.grpc_door import methods


class Silent:
    """A call whose message does not come."""

    async def read(self):
        await asyncio.Event().wait()


def test_a_call_without_a_message_does_not_stay(monkeypatch):
    monkeypatch.setattr(methods, "_MESSAGE_S", 0.01)
    with pytest.raises(RequestTooSlow, match="did not come in time"):
        asyncio.run(methods._read(pb.EmbedRequest, Silent()))
