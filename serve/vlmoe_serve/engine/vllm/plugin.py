"""What vLLM calls in every process of its own."""

from vllm import ModelRegistry

# both register what they define when they are imported
import vlmoe_serve.engine.vllm.hf_config
import vlmoe_serve.engine.vllm.loader  # noqa: F401
from vlmoe_serve.engine.vllm import ARCHITECTURE


def register() -> None:
    """Make the network, its configuration and its checkpoints known to vLLM."""
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "vlmoe_serve.engine.vllm.model:VLMoEModel")
