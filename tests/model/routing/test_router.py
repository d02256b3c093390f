import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmoe_kernels import backend
from vlmoe_model.routing import BatchPriorityRouter, Router, TopKRouter
from vlmoe_model.routing.router import MAX_REROUTES, best, capacity, drop_over_capacity, reroute
from vlmoe_model.routing_mode import DEFAULT, OVERFLOWS, Overflow, RoutingMode

# T = tokens, E = experts


def build(kind: type[Router], num_experts: int = 4, dim: int = 6, **changes: Any) -> Router:
    arguments = {"top_k": 1, "capacity_train": None, "capacity_eval": None, "noise": 1.0, **changes}
    router = kind(dim, num_experts, **arguments).eval()
    with torch.no_grad():
        router.weight.normal_()
    return router


def route_to(logits_TE: torch.Tensor, kind: type[Router], **changes: Any) -> Any:
    """Route tokens whose scores are given: an identity stands for the weights."""
    router = build(kind, logits_TE.shape[1], logits_TE.shape[1], **changes)
    with torch.no_grad():
        router.weight.copy_(torch.eye(logits_TE.shape[1]))
    return router(logits_TE)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_the_best_experts_are_chosen_and_gates_are_not_renormalised(top_k: int) -> None:
    router, x_TD = build(TopKRouter, top_k=top_k), torch.randn(50, 6)
    routing = router(x_TD)
    probs_TE = (x_TD @ router.weight.T).softmax(1)
    gates_TK, experts_TK = probs_TE.topk(top_k)
    torch.testing.assert_close(routing.gates_TK, gates_TK)
    assert torch.equal(routing.experts_TK, experts_TK)
    assert routing.noisy_TE is routing.logits_TE


def test_the_best_one_alone_is_the_first_of_a_sort() -> None:
    # few values: most rows have a tie for the first place
    probs_TE = torch.randint(4, (500, 8), generator=torch.Generator().manual_seed(0)).float()
    gates_T1, experts_T1 = best(probs_TE, 1)
    gates_TE, experts_TE = best(probs_TE, 2)
    assert torch.equal(gates_T1, gates_TE[:, :1])
    assert torch.equal(experts_T1, experts_TE[:, :1])


def test_ties_go_to_the_lowest_expert() -> None:
    assert route_to(torch.zeros(3, 4), TopKRouter, top_k=2).experts_TK.tolist() == [[0, 1]] * 3


def test_noise_is_for_training_and_has_a_deviation_of_one_over_experts() -> None:
    router, x_TD = build(TopKRouter, noise=2.0), torch.randn(4000, 6)
    assert torch.equal(router(x_TD).noisy_TE, router(x_TD).logits_TE)
    routing = router.train()(x_TD)
    noise = (routing.noisy_TE - routing.logits_TE).detach()
    assert noise.std().item() == pytest.approx(2.0 / 4, rel=0.05)
    assert abs(noise.mean().item()) < 0.02
    # dispatch and gates follow the noisy scores
    assert torch.equal(routing.experts_TK[:, 0], routing.noisy_TE.argmax(1))
    torch.testing.assert_close(routing.gates_TK[:, 0], routing.noisy_TE.softmax(1).max(1).values)


def test_scores_are_float32_even_under_autocast() -> None:
    router = build(TopKRouter)
    with torch.autocast("cpu", torch.bfloat16):
        routing = router(torch.randn(5, 6).bfloat16())
    assert routing.logits_TE.dtype == routing.gates_TK.dtype == torch.float32


def test_a_packed_router_routes_as_before() -> None:
    router, x_TD = build(BatchPriorityRouter, capacity_eval=1.0), torch.randn(21, 6)
    before = router(x_TD)
    router.requires_grad_(False).pack(backend("cpu"))
    after = router(x_TD)
    assert torch.equal(after.experts_TK, before.experts_TK)
    torch.testing.assert_close(after.gates_TK, before.gates_TK)


@pytest.mark.parametrize(
    ("factor", "choices", "experts", "expected"),
    [
        (1.05, 256, 8, 34),
        (1.05, 6304, 32, 207),
        (1.0, 10, 4, 3),
        (1.0, 8, 4, 2),
        (0.01, 5, 4, 1),
        (1.1, 10, 1, 11),
    ],
)
def test_capacity_is_rounded_up(factor: float, choices: int, experts: int, expected: int) -> None:
    assert capacity(factor, choices, experts) == expected


def test_batch_priority_keeps_the_highest_probabilities_and_fifo_the_first() -> None:
    # all tokens want expert 0, each more than the one before
    logits_TE = torch.zeros(8, 4)
    logits_TE[:, 0] = torch.linspace(1.0, 2.0, 8)
    for kind, kept in ((TopKRouter, [0, 1]), (BatchPriorityRouter, [6, 7])):
        routing = route_to(logits_TE, kind, capacity_eval=1.0)
        assert (routing.experts_TK[:, 0] >= 0).nonzero()[:, 0].tolist() == kept
        assert torch.equal(routing.gates_TK[:, 0], logits_TE.softmax(1)[:, 0])


@pytest.mark.parametrize("kind", [TopKRouter, BatchPriorityRouter])
def test_equal_scores_claim_in_order_of_the_batch(kind: type[Router]) -> None:
    routing = route_to(torch.tensor([[1.0, 0.0]]).repeat(6, 1), kind, capacity_eval=1.0)
    assert routing.experts_TK[:, 0].tolist() == [0, 0, 0, -1, -1, -1]


@pytest.mark.parametrize("kind", [TopKRouter, BatchPriorityRouter])
@pytest.mark.parametrize("top_k", [1, 2])
def test_an_overloaded_expert_takes_exactly_its_capacity(kind: type[Router], top_k: int) -> None:
    x_TD = torch.randn(200, 6) + 1.0
    dropless = build(kind, top_k=top_k)
    limited = build(kind, top_k=top_k, capacity_eval=0.7)
    limited.load_state_dict(dropless.state_dict())
    wanted = torch.bincount(dropless(x_TD).experts_TK.flatten(), minlength=4)
    experts_TK = limited(x_TD).experts_TK
    taken = torch.bincount(experts_TK[experts_TK >= 0], minlength=4)
    limit = capacity(0.7, 200 * top_k, 4)
    assert (wanted > limit).any()
    assert torch.equal(taken, wanted.clamp_max(limit))


def test_train_and_eval_have_their_own_capacity() -> None:
    router, x_TD = build(TopKRouter, 2, noise=0.0, capacity_train=0.5, capacity_eval=None), torch.ones(8, 6)
    assert (router(x_TD).experts_TK >= 0).sum() == 8
    assert (router.train()(x_TD).experts_TK >= 0).sum() == 2


def test_all_first_choices_claim_before_any_second_one() -> None:
    # the second choice of token 0 and the first of tokens 1 and 2 want expert 1, which has two slots
    experts_TK = torch.tensor([[0, 1], [1, 0], [1, 2]])
    kept = drop_over_capacity(experts_TK, torch.arange(3), 2)
    assert kept.tolist() == [[0, -1], [1, 0], [1, 2]]


@st.composite
def claims(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int]:
    num_experts, num_tokens = draw(st.integers(2, 5)), draw(st.integers(0, 15))
    num_choices = draw(st.integers(1, 2))
    rows = [draw(st.permutations(range(num_experts)))[:num_choices] for _ in range(num_tokens)]
    experts_TK = torch.tensor(rows, dtype=torch.int64).view(num_tokens, num_choices)
    priority_T = torch.tensor(draw(st.permutations(range(num_tokens))), dtype=torch.int64)
    return experts_TK, priority_T, draw(st.integers(1, 5))


@given(claims())
@settings(max_examples=150, deadline=None)
def test_dropping_is_what_a_loop_over_claims_does(case: tuple[torch.Tensor, torch.Tensor, int]) -> None:
    experts_TK, priority_T, limit = case
    expected, used = torch.full_like(experts_TK, -1), {}
    for k in range(experts_TK.shape[1]):
        for token in priority_T.tolist():
            expert = int(experts_TK[token, k])
            if used.get(expert, 0) < limit:
                used[expert] = used.get(expert, 0) + 1
                expected[token, k] = expert
    assert torch.equal(drop_over_capacity(experts_TK, priority_T, limit), expected)


@pytest.mark.parametrize("top_k", [0, 5])
def test_an_impossible_number_of_choices_is_refused(top_k: int) -> None:
    with pytest.raises(ValueError, match=rf"top_k must be in \[1, 4\], got {top_k}"):
        build(TopKRouter, top_k=top_k)


def test_the_base_router_does_not_rank() -> None:
    with pytest.raises(TypeError, match="Router does not say who claims slots first"):
        build(Router, capacity_eval=1.0)(torch.randn(3, 6))


def test_gates_have_a_gradient_at_one_choice() -> None:
    router = build(TopKRouter)
    router(torch.randn(9, 6)).gates_TK.sum().backward()
    assert router.weight.grad is not None
    assert math.isfinite(router.weight.grad.norm())
    assert router.weight.grad.norm() > 0.01


@st.composite
def wishes(draw: st.DrawFn) -> tuple[torch.Tensor, int, torch.Tensor, int]:
    """Every expert by each token's liking, choices, who goes first, and slots."""
    num_experts, num_tokens = draw(st.integers(1, 6)), draw(st.integers(0, 15))
    rows = [draw(st.permutations(range(num_experts))) for _ in range(num_tokens)]
    experts_TE = torch.tensor(rows, dtype=torch.int64).view(num_tokens, num_experts)
    priority_T = torch.tensor(draw(st.permutations(range(num_tokens))), dtype=torch.int64)
    return experts_TE, draw(st.integers(1, min(3, num_experts))), priority_T, draw(st.integers(1, 5))


@given(wishes())
@settings(max_examples=150, deadline=None)
def test_rerouting_is_what_a_loop_over_claims_does(case: tuple[torch.Tensor, int, torch.Tensor, int]) -> None:
    experts_TE, top_k, priority_T, limit = case
    num_tokens, num_experts = experts_TE.shape
    expected, used = torch.full((num_tokens, top_k), -1), [0] * num_experts

    def claim(token: int, k: int, rank: int) -> None:
        expert = int(experts_TE[token, rank])
        if used[expert] < limit:
            used[expert] += 1
            expected[token, k] = rank

    for k in range(top_k):
        for token in priority_T.tolist():
            claim(token, k, k)
    for rank in range(top_k, min(num_experts, top_k + MAX_REROUTES)):
        for token in priority_T.tolist():
            lacking = (expected[token] < 0).nonzero()
            if len(lacking):
                claim(token, int(lacking[0]), rank)
    found = reroute(experts_TE, top_k, priority_T, limit)
    assert torch.equal(found, expected)
    # nobody has an expert twice
    for row in found.tolist():
        kept = [rank for rank in row if rank >= 0]
        assert len(set(kept)) == len(kept)


@pytest.mark.parametrize("kind", [TopKRouter, BatchPriorityRouter])
def test_a_mode_decides_instead_of_the_checkpoint(kind: type[Router]) -> None:
    """All tokens want expert 0 most, each more than the one before, and expert 1 next."""
    logits_TE = torch.tensor([2.0, 1.0, 0.0, -1.0]).repeat(8, 1)
    logits_TE[:, 0] += torch.linspace(0.0, 1.0, 8)
    router = build(kind, 4, 4, capacity_eval=4.0)
    with torch.no_grad():
        router.weight.copy_(torch.eye(4))

    def kept(mode: RoutingMode) -> list[int]:
        return router(logits_TE, mode).experts_TK[:, 0].tolist()

    assert kept(DEFAULT) == [0] * 8
    assert kept(RoutingMode(1.0, "drop")) == [0, 0, -1, -1, -1, -1, -1, -1]
    assert kept(RoutingMode(1.0, "priority")) == [-1, -1, -1, -1, -1, -1, 0, 0]
    assert kept(RoutingMode(1.0, "reroute")) == [3, 3, 2, 2, 1, 1, 0, 0]
    assert kept(RoutingMode(0.5, "reroute")) == [-1, -1, -1, -1, 3, 2, 1, 0]
    routing = router(logits_TE, RoutingMode(1.0, "reroute"))
    gates_TE = logits_TE.softmax(1)
    assert torch.equal(routing.gates_TK[:, 0], gates_TE.gather(1, routing.experts_TK)[:, 0])


def test_fewer_experts_are_the_first_choices() -> None:
    router, x_TD = build(TopKRouter, top_k=2), torch.randn(20, 6)
    both, one = router(x_TD), router(x_TD, RoutingMode(top_k=1))
    assert torch.equal(one.experts_TK, both.experts_TK[:, :1])
    assert torch.equal(one.gates_TK, both.gates_TK[:, :1])
    assert router(x_TD, RoutingMode(top_k=3)).experts_TK.shape == (20, 2)


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("top_k", [1, 2])
def test_no_expert_takes_more_than_the_mode_gives_it(overflow: Overflow, top_k: int) -> None:
    router, x_TD = build(TopKRouter, top_k=top_k), torch.randn(200, 6) + 1.0
    experts_TK = router(x_TD, RoutingMode(0.7, overflow)).experts_TK
    taken = torch.bincount(experts_TK[experts_TK >= 0], minlength=4)
    limit = capacity(0.7, 200 * top_k, 4)
    assert taken.max() == limit
    if overflow == "reroute":
        # with room to spare nobody goes without
        assert (router(x_TD, RoutingMode(2.0, overflow)).experts_TK >= 0).all()
