"""A router over random batches: a token is routed as it is alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmoe_kernels import backend
from vlmoe_model.routing import ROUTERS


@pytest.mark.parametrize("kind", ROUTERS)
def test_a_token_is_routed_as_it_is_alone(cpu_backend: str, threads: int, kind: str) -> None:
    torch.manual_seed(0)
    router = ROUTERS[kind](96, 32, top_k=2, capacity_train=None, capacity_eval=None, noise=0.0).eval()
    x_TD = torch.randn(200, 96)
    with torch.inference_mode():
        router.requires_grad_(False).pack(backend(cpu_backend))
        alone = [router(x_TD[t : t + 1]) for t in range(200)]

    @settings(max_examples=40, deadline=None)
    @given(tokens=st.lists(st.integers(0, 199), min_size=1, max_size=200))
    def check(tokens: list[int]) -> None:
        with torch.inference_mode():
            routing = router(x_TD[tokens])
        for part in ("gates_TK", "experts_TK", "logits_TE"):
            expected = torch.cat([getattr(alone[t], part) for t in tokens])
            assert torch.equal(getattr(routing, part), expected)

    check()
