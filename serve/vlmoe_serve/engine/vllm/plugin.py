"""What vLLM calls in every process of its own."""

import multiprocessing
import os

from vllm import ModelRegistry

# both register what they define when they are imported
import vlmoe_serve.engine.vllm.hf_config
import vlmoe_serve.engine.vllm.loader  # noqa: F401
from vlmoe_serve.engine.lifetime import be_killed_with
from vlmoe_serve.engine.vllm import ARCHITECTURE
from vlmoe_serve.engine.vllm.settings import OURS


def register() -> None:
    """Make the network, its configuration and its checkpoints known to vLLM."""
    parent = multiprocessing.parent_process()
    if os.environ.get(OURS) and parent is not None and parent.pid is not None:
        # the engine's process may be killed, and vLLM's would live on without it
        be_killed_with(parent.pid)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "vlmoe_serve.engine.vllm.model:VLMoEModel")
