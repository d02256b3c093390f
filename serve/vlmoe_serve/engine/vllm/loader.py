"""Weights of our checkpoint directories, deltas included, for vLLM's workers."""

from typing import TYPE_CHECKING

import torch
from vllm.config import ModelConfig
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.weights import check_tensors, read_tensors
from vlmoe_model.network import VLMoE
from vlmoe_serve.engine.vllm import FORMAT

if TYPE_CHECKING:
    from vlmoe_serve.engine.vllm.model import VLMoEModel


@register_model_loader(FORMAT)
class DirectoryLoader(BaseModelLoader):
    """Reads one tensor after the other; a worker keeps its part of each, so none ever holds the whole model."""

    def download_model(self, model_config: ModelConfig) -> None:
        """It is a directory."""

    def load_weights(self, model: "VLMoEModel", model_config: ModelConfig) -> None:
        """Fill the model.

        Raises:
            CheckpointError: a tensor is missing, unknown or has the wrong shape, or a file has changed.
        """
        directory = open_directory(model_config.model)
        with torch.device("meta"):
            network = VLMoE(directory.config)
        check_tensors(directory, {name: tuple(one.shape) for name, one in network.state_dict().items()})
        with torch.no_grad():
            for entry, tensor in read_tensors(directory.tensors.values()):
                model.load(entry.name, tensor)
