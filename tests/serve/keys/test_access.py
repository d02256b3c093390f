import pytest

from vlmoe_serve.errors import Overloaded, Unauthorized
from vlmoe_serve.keys.access import Access
from vlmoe_serve.keys.api_keys import ApiKeys
from vlmoe_serve.keys.key_limits import KeyLimits
from vlmoe_serve.metrics import Metrics


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text("first\nsecond\n")
    return ApiKeys.load(file)


def refusals(metrics, key, why):
    return metrics.registry.get_sample_value("vlmoe_key_refusals_total", {"key": key, "why": why}) or 0


def test_without_keys_nobody_has_a_name_or_a_limit(metrics):
    access = Access(ApiKeys(), KeyLimits(max_concurrent=1), metrics)
    assert not access
    assert access.check(b"anything") is None
    with access.one(None), access.one(None):
        pass


def test_foreign_keys_are_refused_and_counted(metrics, keys):
    access = Access(keys, KeyLimits(), metrics)
    for shown in (None, b"", b"third"):
        with pytest.raises(Unauthorized):
            access.check(shown)
    assert refusals(metrics, "", "unauthorized") == 3
    assert access.check(b"second") == "line-2"


def test_a_share_is_given_back_whatever_happens(metrics, keys):
    access = Access(keys, KeyLimits(max_concurrent=1), metrics)
    name = access.check(b"first")
    for _ in range(3):
        with pytest.raises(KeyError), access.one(name):
            raise KeyError
    with access.one(name):
        with pytest.raises(Overloaded), access.one(name):
            pass
        with access.one(access.check(b"second")):
            pass
    with access.one(name):
        pass
    assert refusals(metrics, "line-1", "key_concurrency") == 1
