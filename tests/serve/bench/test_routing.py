import pytest
import torch

from vlmoe_model.network import VLMoE
from vlmoe_serve.bench.routing import EvenRouter, balance, even


@pytest.mark.parametrize(
    ("num_tokens", "top_k", "num_experts"), [(0, 1, 4), (7, 1, 4), (197, 2, 32), (8, 4, 4)]
)
def test_every_expert_has_the_same_share(num_tokens, top_k, num_experts):
    experts_TK = even(num_tokens, top_k, num_experts)
    counts = torch.bincount(experts_TK.flatten(), minlength=num_experts)
    assert experts_TK.shape == (num_tokens, top_k)
    assert counts.max() - counts.min() <= top_k
    assert all(len(set(row)) == top_k for row in experts_TK.tolist())


def test_neighbours_go_different_ways():
    experts_T = even(320, 1, 32)[:, 0]
    assert (experts_T[1:] - experts_T[:-1]).unique().numel() > 10


def test_gates_are_the_routers_own(config):
    router = EvenRouter(8, 4, top_k=2, capacity_train=None, capacity_eval=None, noise=0.0).eval()
    routing = router(torch.randn(9, 8))
    assert routing.gates_TK.equal(routing.logits_TE.softmax(1).topk(2).values)
    assert routing.experts_TK.equal(even(9, 2, 4))


def test_all_routers_are_replaced_and_keep_their_names(config):
    with torch.device("meta"):
        network = VLMoE(config)
        names = list(network.state_dict())
        balance(network, config)
    assert list(network.state_dict()) == names
    routers = [router for block in network.encoder.blocks for router in block.ffn.routers.values()]
    assert len(routers) == 4
    assert all(isinstance(router, EvenRouter) for router in routers)
