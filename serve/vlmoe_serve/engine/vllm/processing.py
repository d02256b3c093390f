"""What vLLM asks of a model that takes images. Requests come finished from `inputs.py`; here it learns their sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptIndexTargets,
    PromptInsertion,
)

from vlmoe_model.config import ModelConfig
from vlmoe_serve.engine.vllm.token_ids import TokenIds, num_image_tokens


class Sizes(BaseProcessingInfo):
    """How many images a request has, and how many tokens an image."""

    @property
    def network(self) -> ModelConfig:
        """Our own configuration."""
        return ModelConfig.from_json(self.get_hf_config().network)

    def get_hf_config(self) -> Any:
        """What `hf_config.py` made."""
        return self.ctx.get_hf_config()

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """At most one image."""
        return {"image": 1}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Of the largest image that a head takes."""
        return {"image": max(map(num_image_tokens, TokenIds.of(self.network).grids), default=1)}


class DummyInputs(BaseDummyInputsBuilder[Sizes]):
    """Inputs of the largest size."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """No text."""
        return ""

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Black images."""
        network = self.info.network
        side = max(TokenIds.of(network).grids, default=1) * network.patch_size
        return {"image": [Image.new("RGB", (side, side))] * mm_counts.get("image", 0)}


class Processor(BaseMultiModalProcessor[Sizes]):
    """Images in the form of `inputs.py`."""

    requires_tokenizer = False

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        pixels = [torch.from_numpy(np.array(image)) for image in hf_data["images"]]
        return BatchFeature({"pixels": pixels, "normalisation": torch.zeros(len(pixels), dtype=torch.int64)})

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return fields()

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptInsertion]:
        ids = TokenIds.of(self.info.network)
        return [
            PromptInsertion(
                modality="image",
                target=PromptIndexTargets.end(),
                insertion=ids.prompt(None, max(ids.grids)),
            )
        ]


def fields() -> dict[str, MultiModalFieldConfig]:
    """pixels: uint8 [S, S, 3]. normalisation: place in `token_ids.normalisations`."""
    return {
        "pixels": MultiModalFieldConfig.batched("image"),
        "normalisation": MultiModalFieldConfig.batched("image"),
    }
