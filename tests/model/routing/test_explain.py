import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from vlmoe_model.config import ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import PAIR, TEXT, VISION, pack
from vlmoe_model.routing import Routing
from vlmoe_model.routing.explain import routes_of


@torch.no_grad()
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("order", ["text_first", "image_first"])
def test_every_sequence_of_a_batch_finds_its_own_choices(
    config: ModelConfig,
    build_network: Callable[..., VLMoE],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
    top_k: int,
    order: str,
) -> None:
    """What a sequence's tokens chose is what they choose in a batch of their own."""
    config = dataclasses.replace(config, moe_blocks=(1, 0), top_k=top_k, order=order)
    network, jobs = build_network(config), mixed_jobs(config)
    packed, log = pack(jobs, config), list[Routing]()
    network(packed, log)
    for place, index in enumerate(packed.jobs):
        job, alone_log = jobs[index], list[Routing]()
        alone = pack([job], config)
        network(alone, alone_log)
        num_image, num_text = job.num_tokens(config.patch_size)
        pools = [TEXT] * num_text + [VISION] * num_image
        if order == "image_first":
            pools.reverse()
        for block, (found, expected) in enumerate(
            zip(routes_of(packed, log, config, place), routes_of(alone, alone_log, config, 0), strict=True)
        ):
            assert found.layer == block
            is_pair = block == 1 and num_text > 0 and num_image > 0
            assert found.pools_T.tolist() == ([PAIR] * len(pools) if is_pair else pools)
            assert np.array_equal(found.experts_TK, expected.experts_TK)
            np.testing.assert_allclose(found.gates_TK, expected.gates_TK, rtol=1e-5)
            if is_pair:
                assert (found.experts_TK[:, 0] == 0).all()
                assert (found.experts_TK[:, 1:] == -1).all()
                assert found.gates_TK.sum(1).tolist() == [1.0] * len(pools)
            else:
                assert (found.experts_TK >= 0).all()
                assert (found.gates_TK > 0).all()


def test_a_place_that_is_not_there_is_refused(
    config: ModelConfig, mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    packed = pack(mixed_jobs(config), config)
    with pytest.raises(IndexError, match="no sequence 16"):
        routes_of(packed, [], config, 16)
