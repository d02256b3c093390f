import pytest

from vlmoe_serve.placement.capacity import Curve, fewest_units, offers, settled
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import Load

# a millisecond and half a millisecond a sequence
LINE = Curve((1, 512), (1.5, 257.0))


def test_a_batch_settles_where_it_holds_what_arrives_meanwhile() -> None:
    # b = 1.0 * (1 + b / 2) -> b = 2 at one request a millisecond
    found = settled(LINE, 1000.0, 100.0)
    assert found is not None
    assert found[0] == pytest.approx(2.0, rel=0.02)
    # faster than a sequence takes: no batch is large enough
    assert settled(LINE, 2100.0, 1000.0) is None
    assert settled(LINE, 1000.0, 2.0) is None


def test_units_are_as_few_as_the_latency_allows() -> None:
    for rate in (10.0, 3000.0, 20_000.0):
        found = fewest_units(LINE, rate, 20.0)
        assert found is not None
        units, _, latency = found
        assert latency <= 20.0
        assert units == 1 or settled(LINE, rate / (units - 1), 20.0) is None
    assert fewest_units(LINE, 10.0, 2.9) is None


def test_slow_links_make_replicas_the_answer_and_memory_rules_them_out(small_load: Load) -> None:
    slow = Costs(near_us=5.0, far_us=50.0, start_us=1000.0)
    found = offers(small_load, slow, rate=20_000.0, p99_ms=50.0)
    assert found[0].kind == "replicas"
    assert found == sorted(found, key=lambda offer: (offer.devices, offer.p99_ms))
    limit = found[0].memory_mb - 1
    smaller = offers(small_load, slow, rate=20_000.0, p99_ms=50.0, memory_mb=limit)
    assert smaller
    assert all(offer.kind != "replicas" and offer.memory_mb <= limit for offer in smaller)


def test_reading_many_weights_makes_sharing_experts_faster(small_load: Load) -> None:
    heavy = Costs(expert_us=3000.0, near_us=0.0, far_us=0.0)
    by_kind = {(o.kind, o.group): o for o in offers(small_load, heavy, rate=300.0, p99_ms=2000.0)}
    assert by_kind["expert parallel", 4].p99_ms < by_kind["replicas", 1].p99_ms


def test_no_arrangement_may_be_the_answer(small_load: Load) -> None:
    assert offers(small_load, Costs(), rate=10.0, p99_ms=1e-6) == []
