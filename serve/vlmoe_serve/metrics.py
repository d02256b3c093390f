"""Every metric of the server, with its unit and its buckets; those that engines report are in `engine_metrics.py`.

Names have one prefix and base units. The registry is our own: several servers in one process do not mix.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vlmoe_serve.batching.observer import BatchReport, Drop
from vlmoe_serve.encoding.byte_cache import CacheStats
from vlmoe_serve.engine.protocol import EngineInfo
from vlmoe_serve.engine.report import EngineReport
from vlmoe_serve.engine_metrics import EngineCollector

# 0.5 ms to 60 s, about three steps a decade: a demo on a laptop and a large model under load both land inside
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
_JOBS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What the server counts; the event loop alone writes here."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "vlmoe_requests", "Answered requests.", ["route", "method", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "vlmoe_request_seconds",
            "From a request's first byte to its answer's last.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._in_flight = Gauge("vlmoe_requests_in_flight", "Requests being answered.", registry=registry)
        self._disconnects = Counter(
            "vlmoe_disconnects", "Requests whose caller left before the answer.", ["route"], registry=registry
        )
        self._key_refusals = Counter(
            "vlmoe_key_refusals",
            "Requests refused for their key, by the key's name and why.",
            ["key", "why"],
            registry=registry,
        )
        self._connection_refusals = Counter(
            "vlmoe_connections_refused",
            "Connections ended before they became a request, by why.",
            ["why"],
            registry=registry,
        )
        self._fetch_seconds = Histogram(
            "vlmoe_url_fetch_seconds", "Fetching a picture by its URL.", buckets=_SECONDS, registry=registry
        )
        self._fetches = Counter(
            "vlmoe_url_fetches", "Pictures fetched by URL, by how it ended.", ["outcome"], registry=registry
        )
        self._encode_seconds = Histogram(
            "vlmoe_encode_seconds", "Decoding and tokenising an input.", buckets=_SECONDS, registry=registry
        )
        self._queue_seconds = Histogram(
            "vlmoe_queue_seconds",
            "An input's wait for a batch.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._forward_seconds = Histogram(
            "vlmoe_forward_seconds", "A batch in the network.", ["model"], buckets=_SECONDS, registry=registry
        )
        self._batch_tokens = Histogram(
            "vlmoe_batch_tokens", "Tokens of a batch.", ["model"], buckets=_TOKENS, registry=registry
        )
        self._batch_jobs = Histogram(
            "vlmoe_batch_jobs", "Sequences of a batch.", ["model"], buckets=_JOBS, registry=registry
        )
        self._batches = Counter(
            "vlmoe_batches", "Batches, by what released them.", ["model", "reason"], registry=registry
        )
        self._drops = Counter(
            "vlmoe_dropped",
            "Inputs that ended without an answer, by why.",
            ["model", "why"],
            registry=registry,
        )
        self._restarts = Counter(
            "vlmoe_engine_restarts", "Engine processes that had to be replaced.", ["model"], registry=registry
        )
        self._rerouted = Counter(
            "vlmoe_routing_mode_jobs",
            "Sequences that were not routed as the checkpoint does by itself, by how they were.",
            ["model", "mode"],
            registry=registry,
        )
        self._brownout_switches = Counter(
            "vlmoe_brownout_switches",
            "How often a model's brownout began (on) and ended (off).",
            ["model", "to"],
            registry=registry,
        )
        self._model_info = Gauge(
            "vlmoe_model_info",
            "1 for each model that is served.",
            ["model", "model_id", "space_id", "dtype", "device"],
            registry=registry,
        )
        self._engines = EngineCollector()
        registry.register(self._engines)
        self._parameters = Gauge(
            "vlmoe_model_parameters",
            "Parameters of a model, all experts included.",
            ["model"],
            registry=registry,
        )

    def on_start(self) -> None:
        """A request has arrived."""
        self._in_flight.inc()

    def on_answer(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request has been answered."""
        self._in_flight.dec()
        kept = self._answered.get((route, method, status))
        if kept is None:
            # looked up once: making a child of its labels costs more than counting
            kept = self._requests.labels(route, method, str(status)), self._request_seconds.labels(route)
            self._answered[route, method, status] = kept
        counter, histogram = kept
        counter.inc()
        histogram.observe(seconds)

    def on_handed_over(self) -> None:
        """A request that had arrived is going to arrive again, elsewhere."""
        self._in_flight.dec()

    def on_disconnect(self, route: str) -> None:
        """A request's caller has left."""
        self._in_flight.dec()
        self._disconnects.labels(route).inc()

    def on_refused(self, key: str, why: str) -> None:
        """A request was refused for its key: "" is no key, or none of ours."""
        self._key_refusals.labels(key, why).inc()

    def on_connection_refused(self, why: str) -> None:
        """A connection was ended before it became a request."""
        self._connection_refusals.labels(why).inc()

    def on_fetched(self, seconds: float, outcome: str) -> None:
        """A picture was fetched by its URL, or not: `outcome` is "ok" or the error's code."""
        self._fetch_seconds.observe(seconds)
        self._fetches.labels(outcome).inc()

    def on_encoded(self, encode_ms: float) -> None:
        """An input is ready for the network."""
        self._encode_seconds.observe(encode_ms / 1000)

    def on_refused_again(self, models: Iterable[str]) -> None:
        """A request was refused as the one before it."""
        for model in models:
            self._drops.labels(model, "overloaded").inc()

    def on_brownout(self, model: str, on: bool) -> None:
        """A model's brownout has begun or ended."""
        self._brownout_switches.labels(model, "on" if on else "off").inc()

    def on_rerouted(self, model: str, mode: str, num_jobs: int) -> None:
        """Sequences were answered in a routing mode."""
        self._rerouted.labels(model, mode).inc(num_jobs)

    def on_model(self, name: str, info: EngineInfo) -> None:
        """A model is ready."""
        self._model_info.labels(name, info.model_id, info.space_id or "", info.dtype, info.device).set(1)
        self._parameters.labels(name).set(info.num_parameters)
        # counters that begin with their first event would show no increase when it comes
        self._restarts.labels(name)
        for why in get_args(Drop):
            self._drops.labels(name, why)

    def on_model_gone(self, name: str, info: EngineInfo) -> None:
        """A model is not served any more, or not this one."""
        self._model_info.remove(name, info.model_id, info.space_id or "", info.dtype, info.device)
        self._parameters.remove(name)
        self._engines.forget(name)

    def observer(self, model: str) -> "ModelObserver":
        """What a model's batcher reports to."""
        return ModelObserver(self, model)

    def watch(self, name: str, help: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """A gauge that is read when somebody looks: one value for each value of `label`."""
        self.registry.register(_Watched(f"vlmoe_{name}", help, label, read))

    def watch_one(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A gauge of one value that is read when somebody looks."""
        Gauge(f"vlmoe_{name}", help, registry=self.registry).set_function(read)

    def watch_caches(self, read: Callable[[], Mapping[str, CacheStats]]) -> None:
        """The counts of caches, by their names, read when somebody looks."""
        self.registry.register(_Caches(read))

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self.registry)


class ModelObserver:
    """The batcher's observer for one model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model

    def on_batch(self, report: BatchReport) -> None:
        """A batch was answered."""
        metrics, model = self._metrics, self._model
        metrics._batches.labels(model, report.reason).inc()
        metrics._batch_tokens.labels(model).observe(report.work.tokens)
        metrics._batch_jobs.labels(model).observe(report.num_jobs)
        metrics._forward_seconds.labels(model).observe(report.forward_ms / 1000)
        queue_seconds = metrics._queue_seconds.labels(model)
        for queue_ms in report.queue_ms:
            queue_seconds.observe(queue_ms / 1000)

    def on_drop(self, why: Drop) -> None:
        """An input ended without an answer."""
        self._metrics._drops.labels(self._model, why).inc()

    def on_restart(self, how: str) -> None:
        """The engine process ended and is being started again."""
        self._metrics._restarts.labels(self._model).inc()

    def on_report(self, report: EngineReport) -> None:
        """The engine said what it has done."""
        self._metrics._engines.add(self._model, report)


class _Watched(Collector):
    def __init__(self, name: str, help: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._name, self._help, self._label, self._read = name, help, label, read

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._help, labels=[self._label])
        for value, number in self._read().items():
            family.add_metric([value], number)
        return [family]


class _Caches(Collector):
    def __init__(self, read: Callable[[], Mapping[str, CacheStats]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        hits = CounterMetricFamily("vlmoe_cache_hits", "Inputs found in a cache.", labels=["cache"])
        misses = CounterMetricFamily("vlmoe_cache_misses", "Inputs not found in a cache.", labels=["cache"])
        size = GaugeMetricFamily("vlmoe_cache_bytes", "Memory that a cache takes.", labels=["cache"])
        entries = GaugeMetricFamily("vlmoe_cache_entries", "Inputs in a cache.", labels=["cache"])
        for name, stats in self._read().items():
            hits.add_metric([name], stats.hits)
            misses.add_metric([name], stats.misses)
            size.add_metric([name], stats.num_bytes)
            entries.add_metric([name], stats.num_entries)
        return [hits, misses, size, entries]
