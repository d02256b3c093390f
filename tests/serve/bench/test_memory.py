import sys

import pytest
import torch

from vlmoe_serve.bench import memory
from vlmoe_serve.bench.memory import peak_mb


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts anew")
def test_the_highest_of_one_call_and_not_of_an_earlier_one():
    before = peak_mb(lambda: None)
    with_it = peak_mb(lambda: torch.ones(50_000_000).sum())
    after = peak_mb(lambda: None)
    assert with_it - before == pytest.approx(200, abs=60)
    assert after < with_it - 100


def test_where_counting_cannot_begin_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "missing" / "clear_refs")
    ran = []
    assert peak_mb(lambda: ran.append(1)) >= 0.5 * peak_mb(lambda: None)
    assert ran == [1]
