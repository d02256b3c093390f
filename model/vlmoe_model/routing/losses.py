"""Balance losses of a router, each over the tokens of one pool. Formulas: V-MoE (Riquelme et al. 2021), appendix A.

The load loss compares noisy *logits* with a threshold of noisy *logits*. A widely copied implementation hands it
probabilities on one side; its gradient is then zero after the first steps.
"""

# T = tokens, E = experts

import math

import torch
from torch import Tensor

from vlmoe_model.routing.router import Routing


def importance(routing: Routing) -> Tensor:
    """Squared coefficient of variation of the summed clean probabilities."""
    return _variation(routing.logits_TE.softmax(dim=-1).sum(dim=0))


def load(routing: Routing) -> Tensor:
    """Squared coefficient of variation of the expected load.

    The probability that expert i stays among the k best when its noise alone is drawn again is
    Phi((logit_i - threshold) / noise_std), the threshold being the k-th largest noisy logit. The noise_std of a router
    without noise is taken as 1 / experts.
    """
    num_experts = routing.logits_TE.shape[1]
    k = routing.experts_TK.shape[1]
    threshold_T1 = routing.noisy_TE.topk(k, dim=-1).values[:, -1:]
    std = routing.noise_std or 1.0 / num_experts
    z_TE = (routing.logits_TE - threshold_T1) / std
    return _variation((0.5 * (1.0 + torch.erf(z_TE / math.sqrt(2.0)))).mean(dim=0))


def vloss(routing: Routing) -> Tensor:
    """Mean of importance and load: V-MoE's loss."""
    return (importance(routing) + load(routing)) / 2


def gshard(routing: Routing) -> Tensor:
    """E * sum_i (fraction routed to i) * (mean probability of i); 1 when balanced (Lepikhin et al. 2021)."""
    num_experts = routing.logits_TE.shape[1]
    first_T = routing.noisy_TE.argmax(dim=-1)
    fraction_E = torch.bincount(first_T, minlength=num_experts) / first_T.shape[0]
    return num_experts * (fraction_E * routing.logits_TE.softmax(dim=-1).mean(dim=0)).sum()


def z_loss(routing: Routing) -> Tensor:
    """Mean squared log-sum-exp of the logits (ST-MoE, Zoph et al. 2022)."""
    return routing.logits_TE.logsumexp(dim=-1).square().mean()


def _variation(values_E: Tensor) -> Tensor:
    """(population deviation / mean)^2."""
    return values_E.var(correction=0) / values_E.mean().square().clamp_min(1e-12)
