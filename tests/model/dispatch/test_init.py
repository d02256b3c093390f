import torch

from vlmoe_kernels import make_plan
from vlmoe_model.dispatch import local


def test_local_experts_run_where_they_are() -> None:
    x_TD, plan = torch.randn(4, 3), make_plan(torch.zeros(4, 1, dtype=torch.int64), None, 1)
    seen = []

    def experts(x: torch.Tensor, of: object) -> torch.Tensor:
        seen.append((x, of))
        return 2 * x

    assert torch.equal(local(x_TD, plan, experts), 2 * x_TD)
    assert seen == [(x_TD, plan)]
