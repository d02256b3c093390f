import pytest

from vlmoe_serve.bench.report import Row, head, line
from vlmoe_serve.bench.timing import Times


@pytest.fixture
def row():
    ms = {"moe": 20.0, "dense": 10.0, "stock_moe": 50.0, "stock_dense": 25.0}
    times = {column: Times((1e-3 * value,) * 5) for column, value in ms.items()}
    return Row("image8", "bf16", 2, 32, 8, 1576, times, 1e11, 5e10, 0.016, 4096.4)


def test_the_outer_contract(row):
    found = row.to_json()
    assert (
        found
        | {
            "case": "image8",
            "dtype": "bf16",
            "threads": 2,
            "ms": {"moe": 20.0, "dense": 10.0, "stock_moe": 50.0, "stock_dense": 25.0},
            "moe_over_dense": 2.0,
            "stock_over_ours": 2.5,
            "roofline_ms": 16.0,
            "peak_mb": 4096.4,
        }
        == found
    )


def test_what_else_it_says(row):
    found = row.to_json()
    more = {"experts": 32, "sequences": 8, "tokens": 1576, "sequences_s": 400.0, "turns": 5}
    assert found | more | {"gflops": 200.0, "read_gb_s": 50.0} == found
    assert set(found["spread"].values()) == {0.0}


def test_the_table_is_as_wide_as_its_head(row):
    columns = tuple(row.times)
    assert len(line(row, columns)) == len(head(columns))
    assert "2.00       2.50      16.0   1.25   400.0    4096" in line(row, columns)
