"""Our `config.json` as vLLM wants to see it: an object of transformers with the names that it looks for."""

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from vllm.transformers_utils.config import register_config_parser
from vllm.transformers_utils.config_parser_base import ConfigParserBase

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.config import ModelConfig
from vlmoe_serve.engine.vllm import ARCHITECTURE, FORMAT
from vlmoe_serve.engine.vllm.settings import num_logical
from vlmoe_serve.engine.vllm.token_ids import TokenIds, longest


class VLMoEConfig(PretrainedConfig):
    """network: the text of our own config.json, from which everything else follows."""

    model_type = FORMAT

    def __init__(self, network: str = "", **kwargs: Any) -> None:
        self.network = network
        if network:
            config = ModelConfig.from_json(network)
            self.hidden_size = config.dim
            self.num_hidden_layers = config.num_layers
            self.num_attention_heads = config.num_heads
            self.intermediate_size = config.ffn_dim
            self.vocab_size = TokenIds.of(config).size
            self.max_position_embeddings = longest(config)
            if config.moe_blocks:
                # vLLM shares experts out only where it is told that there are some
                self.num_experts = num_logical(config, True)
                self.num_experts_per_tok = config.top_k
            kwargs["architectures"] = [ARCHITECTURE]
        super().__init__(**kwargs)


@register_config_parser(FORMAT)
class DirectoryConfigParser(ConfigParserBase):
    """Reads the configuration of a checkpoint directory."""

    def parse(
        self,
        model: str | Path,
        trust_remote_code: bool,
        revision: str | None = None,
        code_revision: str | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], PretrainedConfig]:
        """The configuration as a dict and as an object."""
        config = VLMoEConfig(network=open_directory(model).config.to_json())
        return config.to_dict(), config
