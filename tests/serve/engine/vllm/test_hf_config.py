from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from vlmoe_model.config import ModelConfig

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM has an environment of its own: make test-vllm"
    ),
]


def test_vllm_reads_our_configuration(checkpoint: Callable[[str], Path]) -> None:
    from vllm.transformers_utils.config import get_config

    from vlmoe_serve.engine.vllm.plugin import register

    register()
    path = checkpoint("mixture")
    found = get_config(str(path), trust_remote_code=False, config_format="vlmoe")
    assert ModelConfig.from_json(found.network) == ModelConfig.from_json((path / "config.json").read_text())
    assert found.architectures == ["VLMoE"]
    assert (found.hidden_size, found.num_attention_heads, found.num_hidden_layers) == (64, 2, 4)
    # both modalities' experts, and the one of pairs
    assert (found.num_experts, found.num_experts_per_tok) == (11, 2)
    # a text of 12 tokens, [I_CLS] and 3 x 3 patches
    assert found.max_position_embeddings == 22


def test_a_dense_network_has_no_experts(checkpoint: Callable[[str], Path]) -> None:
    from vlmoe_serve.engine.vllm.hf_config import DirectoryConfigParser

    fields, found = DirectoryConfigParser().parse(checkpoint("dense"), trust_remote_code=False)
    assert not hasattr(found, "num_experts")
    assert fields["network"] == found.network
