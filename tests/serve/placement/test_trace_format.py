import json
import re
from pathlib import Path

import pytest

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.machines import Sizes
from vlmoe_serve.placement.trace_format import META, TraceError, TraceMeta, read_meta

GOOD = {"model_id": "m-1", "layers": [1, 3], "experts": [4, 4], "ranks": 2}
SIZES = {"dim": 8, "ffn_dim": 32, "weight_bytes": 4, "shared_parameters": 0}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    meta = TraceMeta("m-1", (1, 3), (4, 2), 2)
    (tmp_path / META).write_text(meta.to_json())
    assert read_meta(tmp_path) == meta
    sizes = Sizes(dim=8, ffn_dim=32, weight_bytes=4, shared_parameters=0)
    meta = TraceMeta("m-1", (1, 3), (4, 2), 2, "cpu", sizes, Costs(token_us=3.0, origin="a stop watch"))
    (tmp_path / META).write_text(meta.to_json())
    assert read_meta(tmp_path) == meta


def test_another_device_is_the_same_model() -> None:
    meta = TraceMeta("m-1", (1, 3), (4, 2), 2, "cpu")
    assert meta.is_same_model(TraceMeta("m-1", (1, 3), (4, 2), 1, "cuda"))
    assert not meta.is_same_model(TraceMeta("m-2", (1, 3), (4, 2), 2, "cpu"))


def test_it_may_be_missing_and_one_number_stands_for_both_pools(tmp_path: Path) -> None:
    assert read_meta(tmp_path) is None
    (tmp_path / META).write_text(json.dumps(GOOD | {"experts": 8, "more": "x"}))
    assert read_meta(tmp_path) == TraceMeta("m-1", (1, 3), (8, 8), 2)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"layers": []}, "needs different layers"),
        ({"layers": [1, 1]}, "needs different layers"),
        ({"layers": "all"}, "layers must be whole numbers from 0, got 'all'"),
        ({"experts": [4, 4, 4]}, "the experts of two pools"),
        ({"experts": [4, -1]}, "experts must be whole numbers from 0, got [4, -1]"),
        ({"experts": None}, "experts must be whole numbers from 0, got None"),
        ({"sizes": {"dim": 8}}, "sizes must have dim, ffn_dim, weight_bytes, shared_parameters"),
        ({"sizes": SIZES | {"dim": 0}}, "dim must be a positive whole number, got 0"),
        ({"costs": {"token_us": 0}}, "costs: token_us must be positive, got 0"),
        ({"ranks": -1}, "ranks must be a whole number from 0, got -1"),
    ],
)
def test_a_wrong_one_is_refused(tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    (tmp_path / META).write_text(json.dumps(GOOD | change))
    with pytest.raises(TraceError, match=re.escape(complaint)) as caught:
        read_meta(tmp_path)
    assert str(tmp_path / META) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "7"])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / META).write_text(text)
    with pytest.raises(TraceError, match=re.escape(META)):
        read_meta(tmp_path)
