import pytest

from vlmoe_serve.batching.observer import BatchReport
from vlmoe_serve.batching.ticket import Work
from vlmoe_serve.encoding.byte_cache import CacheStats
from vlmoe_serve.metrics import Metrics

REPORT = BatchReport(
    num_tickets=2,
    num_jobs=3,
    work=Work(100, 5000),
    reason="idle",
    queue_ms=(1.5, 700.0),
    forward_ms=12.0,
    service_ms=13.0,
    predicted_ms=10.0,
)


@pytest.fixture
def metrics():
    return Metrics()


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


def test_batches_are_counted_in_seconds_and_tokens(metrics):
    observer = metrics.observer("m")
    observer.on_batch(REPORT)
    observer.on_drop("expired")
    observer.on_restart("was killed")
    assert value(metrics, "vlmoe_batches_total", model="m", reason="idle") == 1
    assert value(metrics, "vlmoe_queue_seconds_count", model="m") == 2
    assert value(metrics, "vlmoe_queue_seconds_sum", model="m") == pytest.approx(0.7015)
    assert value(metrics, "vlmoe_forward_seconds_sum", model="m") == pytest.approx(0.012)
    assert value(metrics, "vlmoe_batch_tokens_sum", model="m") == 100
    assert value(metrics, "vlmoe_batch_jobs_sum", model="m") == 3
    assert value(metrics, "vlmoe_dropped_total", model="m", why="expired") == 1
    assert value(metrics, "vlmoe_engine_restarts_total", model="m") == 1


def test_requests_come_and_go(metrics):
    metrics.on_start()
    metrics.on_start()
    assert value(metrics, "vlmoe_requests_in_flight") == 2
    metrics.on_answer("/vqa", "POST", 200, 0.25)
    metrics.on_disconnect("/vqa")
    assert value(metrics, "vlmoe_requests_in_flight") == 0
    assert value(metrics, "vlmoe_requests_total", route="/vqa", method="POST", status="200") == 1
    assert value(metrics, "vlmoe_request_seconds_sum", route="/vqa") == 0.25
    assert value(metrics, "vlmoe_disconnects_total", route="/vqa") == 1


def test_watched_values_are_read_when_asked(metrics):
    sizes = {"a": 1}
    metrics.watch("collection_items", "Items.", "collection", lambda: sizes)
    sizes["b"] = 5
    text = metrics.text().decode()
    assert 'vlmoe_collection_items{collection="a"} 1.0' in text
    assert 'vlmoe_collection_items{collection="b"} 5.0' in text


def test_caches_are_read_when_asked(metrics):
    metrics.watch_caches(lambda: {"images": CacheStats(hits=3, misses=2, num_bytes=500, num_entries=1)})
    assert value(metrics, "vlmoe_cache_hits_total", cache="images") == 3
    assert value(metrics, "vlmoe_cache_misses_total", cache="images") == 2
    assert value(metrics, "vlmoe_cache_bytes", cache="images") == 500
    assert value(metrics, "vlmoe_cache_entries", cache="images") == 1


def test_two_servers_in_a_process_do_not_mix(metrics):
    other = Metrics()
    other.on_start()
    assert value(metrics, "vlmoe_requests_in_flight") == 0
