import pytest
import torch
from torch import Tensor

from vlmoe_model.routing import Routing, losses

# T = tokens, E = experts


def routing_of(logits_TE: Tensor, *, top_k: int = 1, noise: float = 0.0) -> Routing:
    torch.manual_seed(0)
    noisy_TE = logits_TE + torch.randn_like(logits_TE) * noise
    gates_TE, experts_TE = noisy_TE.softmax(1).sort(dim=1, descending=True)
    return Routing(gates_TE[:, :top_k], experts_TE[:, :top_k], logits_TE, noisy_TE, noise)


def variation(values_E: Tensor) -> Tensor:
    return (values_E.std(correction=0) / values_E.mean()) ** 2


def biased(num_tokens: int, num_experts: int) -> Tensor:
    """Half of the experts are favoured by 2, whatever the token says."""
    torch.manual_seed(1)
    bias_E = torch.where(torch.arange(num_experts) % 2 == 0, 1.0, -1.0)
    return torch.randn(num_tokens, num_experts) * 0.3 + bias_E


def test_importance_is_the_variation_of_summed_probabilities() -> None:
    logits_TE = torch.randn(30, 4)
    expected = variation(logits_TE.softmax(1).sum(0))
    torch.testing.assert_close(losses.importance(routing_of(logits_TE)), expected)


def test_importance_is_zero_when_uniform() -> None:
    assert losses.importance(routing_of(torch.zeros(30, 8))) == 0
    # each token is sure, but together they are even
    assert losses.importance(routing_of(5.0 * torch.eye(8).repeat(4, 1))) < 1e-12


@pytest.mark.parametrize("top_k", [1, 2])
def test_load_is_the_probability_to_stay_chosen_when_the_noise_is_drawn_again(top_k: int) -> None:
    num_experts, num_draws, std = 8, 4000, 1 / 8
    routing = routing_of(biased(12, num_experts) * 0.2, top_k=top_k, noise=std)
    threshold_T1 = routing.noisy_TE.sort(dim=1, descending=True).values[:, top_k - 1 : top_k]
    again = routing.logits_TE + torch.randn(num_draws, 12, num_experts) * std
    chosen_TE = (again > threshold_T1).float().mean(0)
    expected = variation(chosen_TE.mean(0))
    assert losses.load(routing).item() == pytest.approx(expected.item(), rel=0.05)


@pytest.mark.parametrize("num_experts", [8, 32])
def test_load_sees_a_biased_router(num_experts: int) -> None:
    """Regression: probabilities compared with a threshold of logits give almost nothing here."""
    assert losses.load(routing_of(biased(500, num_experts), noise=1 / num_experts)) > 0.5


def test_load_has_a_gradient_that_evens_out() -> None:
    bias_E = torch.linspace(-0.2, 0.2, 8).requires_grad_(True)
    torch.manual_seed(0)
    logits_TE, noise_TE = torch.randn(500, 8) * 0.1, torch.randn(500, 8) / 8

    def load() -> Tensor:
        clean_TE = logits_TE + bias_E
        routing = routing_of(clean_TE.detach())
        return losses.load(
            Routing(routing.gates_TK, routing.experts_TK, clean_TE, clean_TE + noise_TE, 1 / 8)
        )

    before = load()
    before.backward()
    assert bias_E.grad is not None
    assert bias_E.grad[-1] > 0 > bias_E.grad[0]
    with torch.no_grad():
        bias_E -= 0.01 * bias_E.grad
    assert load() < before


def test_load_of_a_router_without_noise_is_finite() -> None:
    assert losses.load(routing_of(biased(50, 4))).isfinite()


def test_vloss_is_the_mean_of_importance_and_load() -> None:
    routing = routing_of(biased(50, 4), noise=0.25)
    expected = (losses.importance(routing) + losses.load(routing)) / 2
    torch.testing.assert_close(losses.vloss(routing), expected)


def test_gshard_is_one_when_balanced_and_grows_with_imbalance() -> None:
    balanced = routing_of(5.0 * torch.eye(4).repeat(6, 1))
    assert losses.gshard(balanced).item() == pytest.approx(1.0)
    collapsed = routing_of(torch.tensor([[9.0, 0.0, 0.0, 0.0]]).repeat(24, 1))
    assert losses.gshard(collapsed).item() == pytest.approx(4.0, rel=0.01)


def test_z_is_the_mean_squared_log_sum_exp() -> None:
    assert losses.z_loss(routing_of(torch.zeros(5, 4))).item() == pytest.approx(
        torch.tensor(4.0).log().item() ** 2
    )
