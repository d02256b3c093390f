import pytest
import torch

from vlmoe_kernels.limits import OUTPUTS, READ_BYTES, ROWS, WIDTH, Limits


def test_rates_follow_from_the_best_times():
    limits = Limits(torch.bfloat16, {"cpu", "eager"})
    best_s = dict.fromkeys(limits.ops, 3.0) | {"eager": 2.0, "max": 0.5}
    assert limits.rates(best_s) == (ROWS * WIDTH * OUTPUTS / 2.0, READ_BYTES / 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_timed_does_the_work(dtype):
    results = {name: op() for name, op in Limits(dtype, {"eager"}).ops.items()}
    assert results.pop("eager").shape == (ROWS, OUTPUTS)
    assert results == {"sum": torch.tensor(READ_BYTES / 4), "max": torch.tensor(1.0)}
