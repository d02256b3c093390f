"""Users of the HTTP door for locust: people who ask about pictures, search, and index, with pauses between.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000

Server-side phases appear as entries of their own, named by phase, so that locust draws where the time goes.
"""

import itertools
import random

from locust import FastHttpUser, between, constant, events, task
from locust.contrib.fasthttp import ResponseContextManager

from vlmoe_loadtests.mixes import Ask, Maker, batch, classify, embed_image, embed_text, vqa

_DICE = random.Random(0)
_PHASES = ("encode", "queue", "forward")


def prepared(maker: Maker) -> "itertools.cycle[Ask]":
    """Distinct requests, made once for all users."""
    return itertools.cycle([maker(_DICE) for _ in range(32)])


_ASKS = {maker.__name__: prepared(maker) for maker in (vqa, classify, embed_text, embed_image, batch)}


class _Caller(FastHttpUser):
    abstract = True
    priority = "normal"

    def ask(self, kind: str) -> None:
        """Send one; 429 counts as refused, not as failed."""
        ask = next(_ASKS[kind])
        headers = {"content-type": "application/json", "x-priority": self.priority}
        with self.client.post(
            ask.path, data=ask.body, headers=headers, name=ask.kind, catch_response=True
        ) as answer:
            self._note(answer)

    def _note(self, answer: ResponseContextManager) -> None:
        if answer.status_code == 429:
            answer.success()
            events.request.fire(
                request_type="refused",
                name="429",
                response_time=0,
                response_length=0,
                exception=None,
                context={},
            )
            return
        for phase in _PHASES:
            ms = (answer.headers or {}).get(f"x-{phase}-ms")
            if ms is not None:
                events.request.fire(
                    request_type="phase",
                    name=phase,
                    response_time=float(ms),
                    response_length=0,
                    exception=None,
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
        self.ask("vqa")

    @task(2)
    def label(self) -> None:
        """What is on it?"""
        self.ask("classify")

    @task(4)
    def query(self) -> None:
        """A search by text."""
        self.ask("embed_text")


class Indexer(_Caller):
    """A job that fills an index as fast as it is let."""

    weight = 1
    wait_time = constant(0)
    priority = "batch"

    @task(2)
    def pictures(self) -> None:
        """One picture after the other."""
        self.ask("embed_image")

    @task(1)
    def captions(self) -> None:
        """Captions by the dozen."""
        self.ask("batch")
