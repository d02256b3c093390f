"""What the doors share: every call is admitted, computed and answered here, whatever protocol it came by.

    door -> admit -> run(task, body) -> task.run -> compute: encode (threads) -> batcher -> engine -> answer

A body with `inputs` is answered input by input, each of which may fail alone.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from vlmoe_model.inputs import Job
from vlmoe_serve.answers import ErrorAnswer, ErrorBody, Result
from vlmoe_serve.batching.ticket import Work
from vlmoe_serve.brownout import Brownout
from vlmoe_serve.call import Call
from vlmoe_serve.catalog.models import Models, ServedModel
from vlmoe_serve.cores import encode_threads
from vlmoe_serve.encoding.embedding_cache import EmbeddingCache
from vlmoe_serve.encoding.encode import EncodePool
from vlmoe_serve.encoding.pictures import Pictures
from vlmoe_serve.encoding.url_images import UrlImages
from vlmoe_serve.errors import (
    DeadlineExceeded,
    Overloaded,
    ServeError,
    ShuttingDown,
    Starting,
)
from vlmoe_serve.in_flight import InFlight
from vlmoe_serve.lobby import Lobby, Seat
from vlmoe_serve.metrics import Metrics
from vlmoe_serve.retrieval.manager import Collections
from vlmoe_serve.schemas import MAX_INPUTS, Strict
from vlmoe_serve.tasks import TASKS
from vlmoe_serve.tasks.base import Computed, Task
from vlmoe_serve.telemetry.phases import trace_computed, trace_encoded
from vlmoe_serve.telemetry.trace import Traces
from vlmoe_serve.together import together
from vlmoe_serve.validation import check, checked_list

_log = logging.getLogger(__name__)
T = TypeVar("T")
_EMBEDDINGS_SHARE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a caller may ask for."""

    max_image_pixels: int
    max_inputs: int = MAX_INPUTS


@dataclass(frozen=True, slots=True)
class Results:
    """The answers to a call with `inputs`, in their order."""

    results: list[Result]


class Service:
    """All tasks over all models and collections."""

    def __init__(
        self,
        models: Models,
        collections: Collections,
        encode_pool: EncodePool,
        limits: Limits,
        metrics: Metrics,
        *,
        cache_bytes: int = 0,
        url_images: UrlImages | None = None,
        traces: Traces | None = None,
        brownout: Brownout | None = None,
    ) -> None:
        self.models = models
        self.collections = collections
        self.limits = limits
        self.metrics = metrics
        self.traces = traces
        self.started = False
        self.draining = False
        self.in_flight = InFlight()
        self.lobby = Lobby()
        self._encode_pool = encode_pool
        self._brownout = brownout
        self.url_images = url_images or UrlImages()
        # a vector is a hundredth of a picture, and saves more
        self.embeddings = EmbeddingCache(cache_bytes // _EMBEDDINGS_SHARE)
        self.pictures = Pictures(limits.max_image_pixels, cache_bytes - cache_bytes // _EMBEDDINGS_SHARE)

    @property
    def ready(self) -> bool:
        """Every engine has passed a real forward and makes progress, and new calls are taken."""
        return self.started and not self.draining and all(model.batcher.ready for model in self.models)

    def engines_started(self) -> None:
        """Calls are taken from here on. Where every engine computes on a GPU, more threads decode pictures."""
        on_gpus = all(model.batcher.info.device != "cpu" for model in self.models)
        self._encode_pool.grow(encode_threads(on_gpus=on_gpus))
        self.started = True

    def admit(self, call: Call) -> None:
        """Whether there is any point in reading the body; if so the call takes a seat in the lobby.

        Its first input, which is all that is known of it, is not refused any more for the length of the queue. A call
        that has its seat already is not asked again.

        Raises:
            ShuttingDown, Starting, Overloaded, DeadlineExceeded
        """
        if call.seats:
            return
        self.admit_started()
        refusals: list[Overloaded] = []
        for model in self.models:
            try:
                # which model it will ask for is in the body: there is a point if any of them has time
                call.seats.append(self._seat(model, call))
                return
            except Overloaded as refusal:
                refusals.append(refusal)
        raise min(refusals, key=lambda refusal: refusal.retry_after_s)

    def _seat(self, model: ServedModel, call: Call) -> Seat:
        if self._brownout is None:
            return self._admitted(model, call)
        try:
            seat = self._admitted(model, call)
        except Overloaded:
            # nobody is helped by a faster engine where decoding is what takes long
            refused = model.batcher.wait_ms() >= self._encode_pool.wait_ms
            self._brownout.observe(model.name, time.monotonic(), model.batcher.wait_ms(), refused=refused)
            raise
        self._brownout.observe(model.name, time.monotonic(), model.batcher.wait_ms())
        return seat

    def _admitted(self, model: ServedModel, call: Call) -> Seat:
        promised_ms = model.batcher.check_admission(
            call.priority,
            call.deadline_s,
            ahead_ms=self.lobby.ahead_ms(call.priority, call.deadline_s),
            upstream_ms=self._encode_pool.wait_ms,
            own_ms=self._encode_pool.mean_ms + model.batcher.cost_ms(Work()) + self.lobby.mean_ms,
            margin_ms=self.lobby.lateness.margin_ms,
        )
        return self.lobby.enter(call.priority, call.deadline_s, promised_ms)

    def browned_out(self) -> Mapping[str, float]:
        """1 for each model that is browned out now, 0 for the others; empty where none can be."""
        if self._brownout is None or not self.started:
            return {}
        for model in self.models:
            self._brownout.observe(model.name, time.monotonic(), model.batcher.wait_ms())
        return {model.name: float(self._brownout.states()[model.name]) for model in self.models}

    def admit_started(self) -> None:
        """Whether models are there at all.

        Raises:
            ShuttingDown, Starting
        """
        if self.draining:
            raise ShuttingDown("the server is shutting down")
        if not self.started:
            raise Starting("the model is being loaded")

    async def run(self, name: str, body: object, call: Call, *, strict: bool = True) -> Result | Results:
        """Answer a task's body, one input or several.

        Args:
            name: of the task.
            body: as parsed.
            call: who asks.
            strict: False for forms, where every value is text.
        """
        task = TASKS[name]
        if not isinstance(body, dict) or "inputs" not in body:
            request = check(task.request, body, strict=strict)
            return await self.guarded(lambda: self._answered(task, request, call), call)
        shared = {key: value for key, value in body.items() if key != "inputs"}
        check(task.options, shared, strict=strict)
        inputs = checked_list(body["inputs"], "inputs", min(self.limits.max_inputs, task.max_inputs))

        async def one(position: int, fields: object) -> Result:
            prefix = f"inputs.{position}."
            try:
                merged = {**shared, **fields} if isinstance(fields, dict) else fields
                request = check(task.request, merged, strict=strict, prefix=prefix)
                return await self.guarded(lambda: self._answered(task, request, call), call, prefix)
            except ServeError as error:
                return ErrorAnswer(error=error_body(error))

        return Results(await together([one(position, fields) for position, fields in enumerate(inputs)]))

    async def _answered(self, task: Task[Any], request: Strict, call: Call) -> Result:
        return await task.run(await self.url_images.filled(request), self.desk(call))

    async def guarded(self, work: Callable[[], Awaitable[T]], call: Call, prefix: str = "") -> T:
        """Await one input's work under the call's deadline; errors name the field below `prefix`.

        Raises:
            ServeError: nothing else, if the input is one of several; an unknown failure is logged and hidden.
        """
        try:
            if call.deadline_s is None:
                return await work()
            async with asyncio.timeout(call.deadline_s - time.monotonic()):
                return await work()
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the answer was there") from None
        except ServeError as error:
            if error.param is not None:
                error.param = prefix + error.param
            raise
        except Exception as error:
            if not prefix:
                raise
            _log.exception("an input failed for a reason nobody foresaw")
            raise ServeError("internal error") from error

    async def compute(
        self, model: ServedModel, encode: Callable[[], tuple[Job, ...]], call: Call
    ) -> Computed:
        """Encode in a worker thread, then run the jobs in the model's engine; refused before, or not at all."""
        return await call.pacer.run(lambda: self._seated(model, encode, call))

    async def _seated(
        self, model: ServedModel, encode: Callable[[], tuple[Job, ...]], call: Call
    ) -> Computed:
        seat = call.seats.pop() if call.seats else self._seat(model, call)
        try:
            computed = await self._compute(model, encode, call, seat)
        except (DeadlineExceeded, asyncio.CancelledError) as error:
            # one that was cancelled before its deadline says nothing: its caller left
            if isinstance(error, DeadlineExceeded) or time.monotonic() >= (call.deadline_s or math.inf):
                seat.missed()
            raise
        seat.answered()
        return computed

    async def _compute(
        self, model: ServedModel, encode: Callable[[], tuple[Job, ...]], call: Call, seat: Seat
    ) -> Computed:
        def prepared() -> tuple[tuple[Job, ...], list[bytes | None]]:
            jobs = encode()
            return jobs, [self.embeddings.key(model, job) for job in jobs]

        with seat:
            start_s = time.monotonic()
            jobs, keys = await self._encode_pool.run(prepared, call.deadline_s)
            encoded_s = time.monotonic()
            encode_ms = 1000 * (encoded_s - start_s)
        outputs = [self.embeddings.get(key) for key in keys]
        missing = [position for position, output in enumerate(outputs) if output is None]
        wanted = [jobs[position] for position in missing]
        self.lobby.observe(model.batcher.share_ms(wanted))
        call.timings.model_id = call.timings.model_id or model.info.model_id
        call.timings.add(encode_ms, 0.0, 0.0, 0)
        self.metrics.on_encoded(encode_ms)
        trace = call.trace
        if trace is not None:
            cached = len(jobs) - len(missing)
            trace_encoded(trace, model.name, start_s, encoded_s, jobs=len(jobs), cached=cached)
        if missing:
            mode = model.info.facts.routing_mode
            if self._brownout is not None:
                wanted, browned_out = self._brownout.applied(model, wanted)
                mode = browned_out or mode
            submitted_s = time.monotonic()
            outcome = await model.batcher.submit(
                wanted, priority=call.priority, deadline_s=call.deadline_s, admitted=True
            )
            call.timings.add(0.0, outcome.queue_ms, outcome.forward_ms, outcome.batch_tokens, mode)
            if mode:
                self.metrics.on_rerouted(model.name, mode, len(wanted))
            if trace is not None:
                trace_computed(trace, model.name, submitted_s, len(wanted), outcome)
            for position, output in zip(missing, outcome.outputs, strict=True):
                outputs[position] = output
                self.embeddings.put(keys[position], output)
        return Computed(jobs, [output for output in outputs if output is not None])

    def desk(self, call: Call, models: Models | None = None) -> "CallDesk":
        """What a task works with during a call; with `models` it chooses from those, whatever changes meanwhile."""
        return CallDesk(self, call, models or self.models)


@dataclass(frozen=True, slots=True)
class CallDesk:
    """The service as one call's task sees it."""

    service: Service
    call: Call
    models: Models

    @property
    def collections(self) -> Collections:
        """The stored collections."""
        return self.service.collections

    @property
    def pictures(self) -> Pictures:
        """What decodes images, within the limits."""
        return self.service.pictures

    async def compute(self, model: ServedModel, encode: Callable[[], tuple[Job, ...]]) -> Computed:
        """Run `encode` in a worker thread and its jobs in the model's engine."""
        return await self.service.compute(model, encode, self.call)


def error_body(error: ServeError) -> ErrorBody:
    """An error as callers see it."""
    return ErrorBody(code=error.code, message=error.message, param=error.param)
