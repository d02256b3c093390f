"""The network as vLLM runs it: our embeddings and heads, and the blocks of `encoder.py`."""

# T = tokens of the batch, D = dim, G = patches of an image, N = images, S = image side

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import MixtureOfExperts, SupportsMultiModal
from vllm.model_executor.models.interfaces_base import attn_type, default_pooling_type
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.torch_utils import set_default_torch_dtype

from vlmoe_kernels import backend
from vlmoe_kernels.choice import choose_backend
from vlmoe_model.config import ModelConfig
from vlmoe_model.embeddings import Embeddings
from vlmoe_model.heads import HEADS
from vlmoe_model.packing import normalise
from vlmoe_model.stems.gradient import GradientStem
from vlmoe_serve.engine.vllm.encoder import Block, Encoder, Groups
from vlmoe_serve.engine.vllm.feed_forward import MixtureFeedForward
from vlmoe_serve.engine.vllm.head_pooler import HeadPooler
from vlmoe_serve.engine.vllm.processing import DummyInputs, Processor, Sizes
from vlmoe_serve.engine.vllm.token_ids import TokenIds, normalisations


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Sizes, dummy_inputs=DummyInputs)
@attn_type("encoder_only")
@default_pooling_type(seq_pooling_type="CLS")
class VLMoEModel(nn.Module, SupportsMultiModal, MixtureOfExperts):
    """Texts, images and pairs of one batch, all heads.

    Returns float32 [T, D], or [T, 2 D] where a head reads the stem's patches beside the encoder's output.
    """

    is_pooling_model = True
    # beside the embeddings: the ids say which token is what
    requires_raw_input_tokens = True

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.network = ModelConfig.from_json(vllm_config.model_config.hf_config.network)
        self.dtype = vllm_config.model_config.dtype
        self.ids = TokenIds.of(self.network)
        self.encoder = Encoder(self.network, f"{prefix}.encoder".lstrip("."), vllm_config)
        with set_default_torch_dtype(torch.float32):
            # of a few thousand parameters, and what makes answers comparable: in float32, as in every engine of ours
            self.embeddings = Embeddings(self.network)
            self.heads = nn.ModuleDict(
                {head.name: HEADS[head.task](head, self.network) for head in self.network.heads}
            )
        if isinstance(self.embeddings.stem, GradientStem):
            # the same bits as in our own engine: a routing may hang on the last one
            device = vllm_config.device_config.device_type
            self.embeddings.stem.pack(backend(choose_backend("auto", device)))
        self.pooler = HeadPooler(self.network, self.heads)
        self.keeps_patches = any(head.pool == "flatten" for head in self.network.heads)
        self._describe_experts()

    def _describe_experts(self) -> None:
        """What vLLM's balancer of experts reads."""
        mixtures = [
            block.ffn
            for block in self.encoder.blocks
            if isinstance(block, Block) and isinstance(block.ffn, MixtureFeedForward)
        ]
        self.moe_layers = [mixture.experts for mixture in mixtures]
        self.num_moe_layers = len(mixtures)
        self.num_expert_groups, self.num_shared_experts = 1, 0
        if mixtures:
            # alike in all layers where the balancer is on
            last = mixtures[-1]
            self.num_logical_experts = self.num_routed_experts = last.num_logical
            self.num_redundant_experts = last.num_redundant
            self.num_physical_experts = last.num_logical + last.num_redundant
            self.num_local_physical_experts = last.experts.routed_experts.local_num_experts

    def update_physical_experts_metadata(
        self, num_physical_experts: int, num_local_physical_experts: int
    ) -> None:
        """Ranks came or went; vLLM says how many experts there are now.

        Raises:
            ValueError: this rank holds another number of them than before.
        """
        if num_local_physical_experts != self.num_local_physical_experts:
            raise ValueError("ranks that come and go while experts are balanced are not supported")
        self.num_physical_experts = num_physical_experts
        self.num_redundant_experts = num_physical_experts - self.num_logical_experts

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Nothing stands for an image in a text."""
        return None

    def get_language_model(self) -> nn.Module:
        """One network for both modalities."""
        return self

    def load(self, name: str, tensor: Tensor) -> None:
        """Take a tensor of the checkpoint."""
        if name.startswith("encoder.blocks."):
            _, _, index, rest = name.split(".", 3)
            block = self.encoder.blocks[int(index)]
            assert isinstance(block, Block)
            block.load(rest, tensor)
        else:
            self.get_parameter(name).copy_(tensor)

    def embed_multimodal(self, **kwargs: Any) -> Sequence[Tensor]:
        """[I_CLS] and the stem's patches of each image, [1 + G, D]; positions come with the ids."""
        images, normalised = kwargs.get("pixels"), kwargs.get("normalisation")
        if images is None or normalised is None:
            return []
        names = normalisations(self.network)
        where: dict[tuple[int, int], list[int]] = {}
        for index, (image_SS3, place) in enumerate(zip(images, normalised, strict=True)):
            where.setdefault((image_SS3.shape[0], int(place)), []).append(index)
        results: dict[int, Tensor] = {}
        cls_1D = self.embeddings.image_cls
        for (_, place), indices in where.items():
            pixels = normalise(torch.stack([images[i] for i in indices]), self.network, names[place])
            for index, patches_GD in zip(indices, self.embeddings.stem(pixels), strict=True):
                results[index] = torch.cat([cls_1D, patches_GD]).to(self.dtype)
        return [results[index] for index in range(len(results))]

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Sequence[Tensor] | None = None,
        *,
        is_multimodal: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        """[T, D]: words, and in the place of images what `embed_multimodal` made of them."""
        _, is_image_T, row_T = self._read(input_ids)
        x_TD = self.embeddings.words[row_T.masked_fill(is_image_T, 0)].to(self.dtype)
        if multimodal_embeddings is not None and len(multimodal_embeddings):
            assert is_multimodal is not None
            x_TD[is_multimodal.to(x_TD.device)] = torch.cat(list(multimodal_embeddings))
        return x_TD

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: object = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        """Encode the tokens of a batch."""
        stem_TD = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        is_pair_T, is_image_T, row_T = self._read(input_ids)
        x_TD = self._with_positions(stem_TD.float(), is_image_T, row_T, positions)
        x_TD = self.encoder(x_TD, Groups(is_image_T, is_pair_T), self.dtype)
        return torch.cat([x_TD, stem_TD.float()], dim=-1) if self.keeps_patches else x_TD

    def _read(self, input_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What ids say, each [T]: of a pair, of an image, row of the words or of the image positions."""
        is_pair_T = input_ids >= self.ids.half
        row_T = torch.where(is_pair_T, input_ids - self.ids.half, input_ids).long()
        is_image_T = row_T >= self.ids.vocab_size
        return is_pair_T, is_image_T, torch.where(is_image_T, row_T - self.ids.vocab_size, row_T)

    def _with_positions(self, x_TD: Tensor, is_image_T: Tensor, row_T: Tensor, positions: Tensor) -> Tensor:
        """Positions, norm and types, as `Embeddings` adds them."""
        ours, config, is_image = self.embeddings, self.network, is_image_T[:, None]
        text_TD = image_TD = x_TD
        if config.absolute_position:
            last = config.max_text - 1
            text_TD = text_TD + ours.text_positions[config.position_offset + positions.clamp(max=last)]
            if self.ids.grids:
                table = torch.cat([ours.positions_for(grid) for grid in self.ids.grids])
                image_TD = image_TD + table[torch.where(is_image_T, row_T, 0)]
        if config.text_embedding_norm:
            text_TD = ours.text_norm(text_TD)
        if config.type_embeddings:
            text_TD, image_TD = text_TD + ours.types[0], image_TD + ours.types[1]
        return torch.where(is_image, image_TD, text_TD)

    def load_weights(self, weights: Mapping[str, Tensor]) -> set[str]:
        """What vLLM's own loaders would call; `loader.py` calls `load`."""
        for name, tensor in weights.items():
            self.load(name, tensor)
        return set(weights)
