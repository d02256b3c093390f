"""AdamW with decay on matrices only, linear warm-up, cosine decay."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from vlmoe_train.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rate of one step, counted from 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.final_lr_ratio + (1.0 - config.final_lr_ratio) * cosine)


def make_optimizer(config: TrainConfig, modules: Iterable[nn.Module]) -> torch.optim.AdamW:
    """Biases, norms and scalars do not decay; neither do embeddings and positions, whose rows are rarely seen."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            is_matrix = name.endswith(("weight", "w1", "w2")) and parameter.dim() >= 2 and "norm" not in name
            (decayed if is_matrix else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=True)


def freeze_experts(network: nn.Module) -> None:
    """Experts and routers keep their values: VL-MoE's fine-tuning. Their noise and balance losses go with them."""
    for name, module in network.named_modules():
        if name.endswith((".pools", ".routers")) and _is_moe(network, name):
            module.requires_grad_(False)


def _is_moe(network: nn.Module, name: str) -> bool:
    return bool(network.get_submodule(name.rpartition(".")[0]).is_moe)
