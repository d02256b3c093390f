from peers.results import Figures, Results, Trial
from peers.systems import SYSTEMS
from peers.table import markdown


def figures(**more):
    given = {
        "start_s": 2.0,
        "pss_mb": 300.0,
        "alone_p50_ms": 8.0,
        "alone_p99_ms": 12.0,
        "many_rate": 250.0,
        "many_p50_ms": 120.0,
        "many_p99_ms": 180.0,
        "many_failed": 0,
        "cpu_ms": 4.0,
        "client_cpu_ms": 0.3,
        "good": [200.0, 190.0],
    }
    return Figures(**{**given, **more})


def test_the_best_of_each_column_is_bold():
    results = Results()
    results.add(Trial(0, "vlmoe", "0.1.0", figures()))
    worse = figures(many_rate=90.0, alone_p50_ms=9.0, alone_p99_ms=11.0, good=[10.0, 0.0], client_cpu_ms=0.2)
    results.add(Trial(0, "fastapi-thread", "0.165.0", worse))
    results.skipped["ray"] = "does not start"
    head, rule, ours, theirs, *rest = markdown(results, SYSTEMS).splitlines()
    assert head.count("|") == rule.count("|") == ours.count("|") == theirs.count("|")
    assert ours.startswith("| vlmoe | **8.0** / 12.0 | **250** |")
    assert theirs.startswith("| FastAPI 0.165.0, model in a thread | 9.0 / **11.0** | 90 |")
    assert "| **200** / **190** |" in ours
    assert "| 10 / 0 |" in theirs
    assert theirs.endswith("| 0.20 |"), "the client's cost is nobody's merit"
    assert "- ray: does not start" in rest
    assert any(line.startswith("- vlmoe: ") for line in rest)
