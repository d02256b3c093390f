import pytest
import torch

from vlmoe_model.network import VLMoE
from vlmoe_model.presets import PRESETS


def count(name: str) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in VLMoE(PRESETS[name]).parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vlmoe_base_32e", 1.932e9),
        ("vlmo_dense_base", 175.4e6),
    ],
)
def test_parameters_are_those_of_the_paper(name: str, expected: float) -> None:
    assert count(name) == pytest.approx(expected, rel=0.01)


def test_base_has_twelve_mixtures_of_32_experts() -> None:
    with torch.device("meta"):
        network = VLMoE(PRESETS["vlmoe_base_32e"])
    pools = {
        name: len(module.w1)
        for name, module in network.named_modules()
        if name.rpartition(".")[0].endswith("pools")
    }
    assert sum(num_experts == 32 for num_experts in pools.values()) == 12
    # dense: V and T of the other six blocks, VL of the top two
    assert sum(num_experts == 1 for num_experts in pools.values()) == 14
    assert all(
        len(block.ffn.routers) == 2 * (index % 2) for index, block in enumerate(network.encoder.blocks)
    )


@pytest.mark.parametrize("name", [name for name in PRESETS if "32e" in name])
def test_a_dense_twin_differs_in_its_experts_only(name: str) -> None:
    config, dense = PRESETS[name], PRESETS[name.replace("vlmoe", "vlmo_dense").replace("_32e", "")]
    expert = 2 * config.dim * config.ffn_dim + config.ffn_dim + config.dim
    extra = 2 * len(config.moe_blocks) * (31 * expert + 32 * config.dim)
    assert dense == config.dense_twin()
    assert count(name) - extra == count(name.replace("vlmoe", "vlmo_dense").replace("_32e", ""))


def test_every_preset_builds() -> None:
    assert all(count(name) > 0 for name in PRESETS)
