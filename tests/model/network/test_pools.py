"""Which pools and routers a job reaches, seen by where its gradient arrives."""

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch

from vlmoe_model.config import ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE

from .asking import answers


def gradients(network: VLMoE, jobs: Sequence[Job]) -> dict[str, float]:
    network.zero_grad(set_to_none=True)
    # uneven weights: the length of an embedding has no gradient
    y = torch.cat(answers(network, jobs))
    (y * torch.linspace(0.5, 2.0, len(y))).sum().backward()
    return {
        name: 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        for name, parameter in network.named_parameters()
    }


@pytest.mark.parametrize(
    ("head", "num_text", "used", "unused"),
    [
        ("shapes", 0, {"V"}, {"T", "VL"}),
        ("entailment", 7, {"T"}, {"V", "VL"}),
        ("matching", 0, {"V"}, {"T", "VL"}),
        ("matching", 6, {"T"}, {"V", "VL"}),
    ],
    ids=["image", "text", "image to embed", "text to embed"],
)
def test_one_modality_reaches_its_own_pools_only(
    config: ModelConfig,
    build_network: Callable[..., VLMoE],
    build_job: Callable[..., Job],
    head: str,
    num_text: int,
    used: set[str],
    unused: set[str],
) -> None:
    found = gradients(build_network(config), [build_job(config, head, num_text)])
    for name, size in found.items():
        if ".ffn." in name:
            pool = name.split(".ffn.")[1].split(".")[1]
            if pool in unused:
                assert size == 0.0, name
    for block in range(config.num_layers):
        for pool in used:
            assert found[f"encoder.blocks.{block}.ffn.pools.{pool}.w1"] > 0


def test_a_pair_uses_v_and_t_below_vl_start_and_vl_alone_from_there(
    config: ModelConfig, build_network: Callable[..., VLMoE], build_job: Callable[..., Job]
) -> None:
    config = dataclasses.replace(config, moe_blocks=(0, 1))
    found = gradients(build_network(config), [build_job(config, "questions", 7)])
    for name, size in found.items():
        block, _, rest = name.removeprefix("encoder.blocks.").partition(".ffn.")
        if not rest:
            continue
        pool = rest.split(".")[1]
        if block == "0":
            assert pool in ("V", "T")
        elif pool == "VL":
            assert size > 0, name
        else:
            assert size == 0.0, name
    assert min(found[f"encoder.blocks.0.ffn.{part}"] for part in ("pools.V.w2", "pools.T.w2")) > 0


@pytest.mark.parametrize("pool", ["V", "T"])
def test_the_router_learns_from_the_task_with_one_choice(
    config: ModelConfig, build_network: Callable[..., VLMoE], build_job: Callable[..., Job], pool: str
) -> None:
    config = dataclasses.replace(config, moe_blocks=(0,))
    found = gradients(build_network(config), [build_job(config, "questions", 7)])
    assert found[f"encoder.blocks.0.ffn.routers.{pool}.weight"] > 0
