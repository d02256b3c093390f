"""What engines report, as Prometheus sees it."""

import numpy as np
import pytest

from vlmoe_serve.engine.report import EngineReport, ExpertLoad, ExpertMemory, MoveReport
from vlmoe_serve.metrics import Metrics

LOAD = ExpertLoad(
    (1, 3), (2, 1), np.array([[5, 0, 2], [3, 3, 1]]), np.array([8, 6]), 2, 9.0, 7.0, 2.5, 1.5, 640
)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"vlmoe_{name}", {"model": "m", **labels})


def test_reports_are_added_up(metrics: Metrics) -> None:
    observer = metrics.observer("m")
    observer.on_report(EngineReport(LOAD, (100, 50)))
    observer.on_report(EngineReport(LOAD, (120, 60)))
    assert value(metrics, "expert_tokens_total", layer="1", pool="V", expert="0") == 10
    assert value(metrics, "expert_tokens_total", layer="3", pool="T", expert="0") == 2
    assert value(metrics, "rank_tokens_total", rank="1") == 12
    assert value(metrics, "moe_layers_total") == 4
    assert value(metrics, "busiest_rank_tokens_total") == 18
    assert value(metrics, "mean_rank_tokens_total") == 14
    assert value(metrics, "rank_imbalance_total") == 5
    assert value(metrics, "rank_balancedness_total") == 3
    assert value(metrics, "all_to_all_bytes_total") == 1280
    assert value(metrics, "rank_memory_bytes", rank="1") == 60


def test_a_dense_model_has_memory_and_no_experts(metrics: Metrics) -> None:
    metrics.observer("m").on_report(EngineReport(None, (100,)))
    assert value(metrics, "rank_memory_bytes", rank="0") == 100
    assert b"vlmoe_expert_tokens_total{" not in metrics.text()


def test_memory_of_a_gpu_is_told_where_there_is_one(metrics: Metrics) -> None:
    observer = metrics.observer("m")
    observer.on_report(EngineReport(None, (100,)))
    assert value(metrics, "device_memory_bytes") is None
    observer.on_report(EngineReport(None, (100,), device_bytes=700))
    assert value(metrics, "device_memory_bytes") == 700


def test_experts_under_a_budget(metrics: Metrics) -> None:
    observer = metrics.observer("m")
    observer.on_report(EngineReport(None, (100,)))
    assert value(metrics, "expert_read_bytes_total") is None
    observer.on_report(EngineReport(None, (100,), ExpertMemory(80, 60, 20, 5, 2, 3, 50, 0.5)))
    observer.on_report(EngineReport(None, (100,), ExpertMemory(80, 70, 10, 1, 1, 1, 20, 0.25)))
    uses = [value(metrics, "expert_uses_total", found=found) for found in ("memory", "ahead", "disk")]
    assert uses == [6, 3, 4]
    assert value(metrics, "expert_read_bytes_total") == 70
    assert value(metrics, "expert_wait_seconds_total") == 0.75
    sizes = [value(metrics, "expert_memory_bytes", kind=k) for k in ("budget", "resident", "locked")]
    assert sizes == [80, 70, 10]


def test_a_model_of_another_shape_begins_anew(metrics: Metrics) -> None:
    """A name may be given to another checkpoint."""
    observer = metrics.observer("m")
    observer.on_report(EngineReport(LOAD, (100, 50)))
    other = ExpertLoad((1,), (1, 1), np.array([[4, 4]]), np.array([8]), 1, 8.0, 8.0, 1.0, 1.0, 0)
    observer.on_report(EngineReport(other, (100,)))
    assert value(metrics, "moe_layers_total") == 1
    assert value(metrics, "rank_memory_bytes", rank="1") is None


def test_moves_and_refusals_are_counted_from_the_start(metrics: Metrics) -> None:
    observer = metrics.observer("m")
    observer.on_report(EngineReport(LOAD, (1, 1)))
    assert value(metrics, "expert_moves_total") == 0
    assert value(metrics, "placement_refusals_total", why="gain") == 0
    for report in (MoveReport(1, 3, 3000), MoveReport(2, 0, 0, {"gain": 1, "payback": 1})):
        observer.on_report(EngineReport(LOAD, (1, 1), moves=report))
    assert value(metrics, "placement_plans_total") == 3
    assert value(metrics, "expert_moves_total") == 3
    assert value(metrics, "expert_moved_bytes_total") == 3000
    assert value(metrics, "placement_refusals_total", why="payback") == 1
