"""Sizes, modes and dtypes of a whole network."""

import dataclasses
from collections.abc import Callable

import torch

from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE

from .asking import answers, packed_for


@torch.inference_mode()
def test_bf16_is_near_fp32(
    config: ModelConfig, build_network: Callable[..., VLMoE], mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    jobs = mixed_jobs(config)
    fp32, bf16 = (
        answers(packed_for("cpu", build_network(config), dtype), jobs)
        for dtype in (torch.float32, torch.bfloat16)
    )
    distance = torch.stack([(a - b).norm() / a.norm() for a, b in zip(fp32, bf16, strict=True)])
    # a token at the border between two experts may change sides, so not every answer is near
    assert distance.median() < 0.05


@torch.no_grad()
def test_position_interpolation_serves_a_head_of_another_size(
    config: ModelConfig, build_network: Callable[..., VLMoE], build_job: Callable[..., Job]
) -> None:
    large = HeadConfig(
        name="large", task="image_classification", out_dim=3, image=ImageSpec(size=16), max_text=0
    )
    config = dataclasses.replace(config, heads=(*config.heads, large))
    network = build_network(config)
    jobs = [build_job(config, "large"), build_job(config, "shapes")]
    assert [len(a) for a in answers(network, jobs)] == [3, 2]


@torch.no_grad()
def test_drop_path_is_for_training_only(
    config: ModelConfig, build_network: Callable[..., VLMoE], mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    config = dataclasses.replace(config, drop_path=0.5, router_noise=0.0, heads=config.heads)
    network, jobs = build_network(config), mixed_jobs(config)
    first, again = (torch.cat(answers(network, jobs)) for _ in range(2))
    assert torch.equal(first, again)
    network.train()
    first, again = (torch.cat(answers(network, jobs)) for _ in range(2))
    assert not torch.equal(first, again)


def test_packing_gives_the_matrices_up(config: ModelConfig, build_network: Callable[..., VLMoE]) -> None:
    network = build_network(dataclasses.replace(config, sub_ln=True))
    before = {name: p.numel() for name, p in network.named_parameters()}
    packed_for("cpu", network)
    after = {name for name, _ in network.named_parameters()}
    matrices = {
        n for n in before if ".pools." in n or ".routers." in n or n.endswith(("qkv.weight", "out.weight"))
    }
    assert not after & matrices
    assert sum(before[name] for name in after) < 0.4 * sum(before.values())
