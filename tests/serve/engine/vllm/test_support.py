import dataclasses

import pytest

from vlmoe_model.presets import PRESETS
from vlmoe_serve.engine.vllm.support import check

MIXTURE, DENSE = PRESETS["vlmoe_small_32e"], PRESETS["vlmo_dense_small"]


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_preset_is_supported(name, device):
    check(PRESETS[name], device, 1)


@pytest.mark.parametrize(
    ("config", "change", "device", "ranks", "says"),
    [
        (DENSE, {"relative_position": True}, "cuda", 1, "relative-position"),
        (MIXTURE, {"capacity_eval": 1.0}, "cuda", 1, "capacity_eval"),
        (MIXTURE, {"sub_ln": True}, "cuda", 1, "sub_ln"),
        (DENSE, {"sub_ln": True}, "cuda", 2, "sub_ln"),
        (DENSE, {}, "cuda", 4, "6 attention heads"),
        (DENSE, {"ffn_dim": 1537}, "cuda", 2, "1537"),
        (DENSE, {"num_heads": 48}, "cpu", 1, "not 8"),
        (MIXTURE, {"dim": 400, "num_heads": 5}, "cpu", 1, "multiple of 32, not 400"),
    ],
)
def test_what_vllm_cannot_do_is_refused(config, change, device, ranks, says):
    with pytest.raises(ValueError, match=rf"{says}.*; engine torch can"):
        check(dataclasses.replace(config, **change), device, ranks)


def test_a_norm_inside_dense_layers_is_fine_on_one_rank():
    check(dataclasses.replace(DENSE, sub_ln=True, multiway_attention=True), "cpu", 1)
