import json
import re
from pathlib import Path

import numpy as np
import pytest

from vlmoe_serve.placement.costs import Costs, CostsError, read_costs


def test_a_file_of_costs_comes_back(tmp_path: Path) -> None:
    costs = Costs(token_us=3.0, expert_us=100.0, ranks_per_node=2, origin="a stop watch")
    path = tmp_path / "costs.json"
    path.write_text(costs.to_json())
    assert read_costs(path) == costs
    assert read_costs(path).origin == "a stop watch"
    path.write_text('{"token_us": 3}')
    assert read_costs(path) == Costs(token_us=3)


def test_links_know_nodes() -> None:
    costs = Costs(near_us=1.0, far_us=5.0, ranks_per_node=2)
    expected = [[0, 1, 5, 5], [1, 0, 5, 5], [5, 5, 0, 1], [5, 5, 1, 0]]
    np.testing.assert_array_equal(costs.link_us(4), expected)
    assert Costs(token_us=2.0, expert_us=101.0).stream_tokens == 50


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"token_us": 0}, "token_us must be positive, got 0"),
        ({"far_us": -1.0}, "far_us must be a number from 0, got -1.0"),
        ({"token_us": "fast"}, "token_us must be a number from 0, got 'fast'"),
        ({"expert_bytes": 1.5}, "expert_bytes must be a whole number, got 1.5"),
        ({"token_ms": 1.0}, "unknown constant 'token_ms'"),
        ({"origin": 1}, "origin must be a text, got 1"),
        ([1], "must hold a JSON object"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, values: object, complaint: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(values))
    with pytest.raises(CostsError, match=re.escape(complaint)) as caught:
        read_costs(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CostsError, match="cannot be read"):
        read_costs(tmp_path / "none.json")
