"""Users of the gRPC door for locust: people who ask about pictures and search, and jobs that stream.

    locust -f loadtests/locustfile_grpc.py --host grpc://127.0.0.1:8001

The requests are those of the users of the HTTP door. An entry of type "refused" is the server's RESOURCE_EXHAUSTED.
"""

import base64
import itertools
import json
import os
import random
import time
from collections.abc import Callable
from typing import Any

import grpc.experimental.gevent
from google.protobuf.message import Message
from locust import User, between, constant, task

from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2, vlmoe_pb2_grpc
from vlmoe_loadtests.mixes import Ask, Maker, classify, embed_image, embed_text, vqa

# before the first channel: all users share one thread
grpc.experimental.gevent.init_gevent()

_DICE = random.Random(0)
_STREAMED = 16
# the server may ask for a key
_KEY = os.environ.get("VLMOE_API_KEY", "")


def _message(kind: type[Message], ask: Ask) -> Message:
    fields = json.loads(ask.body)
    if "image" in fields:
        fields["image"] = base64.b64decode(fields["image"])
    return kind(**fields)


def _prepared(kind: type[Message], maker: Maker) -> "itertools.cycle[Message]":
    return itertools.cycle([_message(kind, maker(_DICE)) for _ in range(32)])


_VQA = _prepared(vlmoe_pb2.VqaRequest, vqa)
_CLASSIFY = _prepared(vlmoe_pb2.ClassifyRequest, classify)
_TEXTS = _prepared(vlmoe_pb2.EmbedRequest, embed_text)
_PICTURES = _prepared(vlmoe_pb2.EmbedRequest, embed_image)


class _Caller(User):
    abstract = True
    priority = "normal"

    def on_start(self) -> None:
        """Connect."""
        self._channel = grpc.insecure_channel(str(self.host).removeprefix("grpc://"))
        self.stub = vlmoe_pb2_grpc.VLMoEStub(self._channel)
        self.metadata = (("x-priority", self.priority), *((("x-api-key", _KEY),) if _KEY else ()))

    def on_stop(self) -> None:
        """Hang up."""
        self._channel.close()

    def timed(self, name: str, call: Callable[[], Any]) -> None:
        """Report one call."""
        start_s = time.perf_counter()
        kind, error = "grpc", None
        try:
            call()
        except grpc.RpcError as failed:
            code = failed.code() if isinstance(failed, grpc.Call) else None
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                kind, name = "refused", "RESOURCE_EXHAUSTED"
            else:
                error = failed
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=1000 * (time.perf_counter() - start_s),
            response_length=0,
            exception=error,
            context={},
        )


class Person(_Caller):
    """Somebody with pictures and questions, who reads each answer."""

    weight = 6
    wait_time = between(0.5, 3.0)
    priority = "interactive"

    @task(5)
    def question(self) -> None:
        """A question about a picture."""
        self.timed("Vqa", lambda: self.stub.Vqa(next(_VQA), metadata=self.metadata))

    @task(2)
    def label(self) -> None:
        """What is on it?"""
        self.timed("Classify", lambda: self.stub.Classify(next(_CLASSIFY), metadata=self.metadata))

    @task(4)
    def query(self) -> None:
        """A search by text."""
        self.timed("Embed", lambda: self.stub.Embed(next(_TEXTS), metadata=self.metadata))


class Indexer(_Caller):
    """A job that fills an index as fast as it is let, over a stream."""

    weight = 1
    wait_time = constant(0)
    priority = "batch"

    @task
    def pictures(self) -> None:
        """Some pictures on one stream."""
        requests = [
            vlmoe_pb2.EmbedStreamRequest(id=str(n), request=next(_PICTURES)) for n in range(_STREAMED)
        ]
        self.timed(
            f"EmbedStream of {_STREAMED}",
            lambda: list(self.stub.EmbedStream(iter(requests), metadata=self.metadata)),
        )
