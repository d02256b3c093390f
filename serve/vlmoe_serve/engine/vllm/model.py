"""The network as vLLM runs it: our embeddings, norms and heads around vLLM's attention, linears and experts."""

# T = tokens of the batch, D = dim, G = patches of an image, N = images, S = image side

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.attention import EncoderOnlyAttention
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.models.interfaces import MixtureOfExperts, SupportsMultiModal
from vllm.model_executor.models.interfaces_base import attn_type, default_pooling_type
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.torch_utils import set_default_torch_dtype

from vlmoe_model.config import ModelConfig
from vlmoe_model.embeddings import Embeddings
from vlmoe_model.heads import HEADS
from vlmoe_model.layers import GroupedNorm
from vlmoe_model.packing import PAIR, TEXT, VISION, normalise
from vlmoe_serve.engine.vllm.feed_forward import DenseFeedForward, MixtureFeedForward, load
from vlmoe_serve.engine.vllm.head_pooler import HeadPooler
from vlmoe_serve.engine.vllm.processing import DummyInputs, Processor, Sizes
from vlmoe_serve.engine.vllm.token_ids import TokenIds, normalisations


class Groups:
    """Which pool each token is of, below the first block that has a VL pool and from there on."""

    def __init__(self, is_image_T: Tensor, is_pair_T: Tensor) -> None:
        self.modality_T = torch.where(is_image_T, VISION, TEXT)
        self.fused_T = torch.where(is_pair_T, PAIR, self.modality_T)
        self.modality_rows = _rows(self.modality_T, PAIR)
        self.fused_rows = _rows(self.fused_T, PAIR + 1)

    def onehot(self, pool_T: Tensor, num_groups: int) -> Tensor:
        """float32 [T, groups], as norms take it; not read where there is one group."""
        return F.one_hot(pool_T, num_groups).float() if num_groups > 1 else pool_T


def _rows(pool_T: Tensor, num_pools: int) -> tuple[Tensor, ...]:
    return tuple((pool_T == pool).nonzero()[:, 0] for pool in range(num_pools))


class Attention(nn.Module):
    """Attention inside each sequence; projections are shared, or one set a modality."""

    def __init__(self, config: ModelConfig, prefix: str) -> None:
        super().__init__()
        num_groups = 2 if config.multiway_attention else 1
        shares = get_tensor_model_parallel_world_size()
        self.qkv = nn.ModuleList(
            QKVParallelLinear(
                config.dim, config.head_dim, config.num_heads, bias=True, prefix=f"{prefix}.qkv.{group}"
            )
            for group in range(num_groups)
        )
        for qkv in self.qkv:
            # keys have a bias in some checkpoints only
            nn.init.zeros_(qkv.get_parameter("bias"))
        self.out = nn.ModuleList(
            RowParallelLinear(config.dim, config.dim, bias=True, prefix=f"{prefix}.out.{group}")
            for group in range(num_groups)
        )
        with set_default_torch_dtype(torch.float32):
            self.inner_norm = GroupedNorm(config.dim, num_groups, config.norm_eps) if config.sub_ln else None
        self.attend = EncoderOnlyAttention(
            config.num_heads // shares, config.head_dim, config.head_dim**-0.5, prefix=f"{prefix}.attend"
        )

    def load(self, name: str, tensor: Tensor) -> None:
        """Take a tensor of the checkpoint; its first dimension counts the groups."""
        for group, part in enumerate(tensor):
            qkv: Any = self.qkv[group]
            out: Any = self.out[group]
            if name == "qkv.weight":
                for third, which in zip(part.chunk(3), "qkv", strict=True):
                    qkv.weight.weight_loader(qkv.weight, third, which)
            elif name in ("q_bias", "k_bias", "v_bias"):
                qkv.bias.weight_loader(qkv.bias, part, name[0])
            elif name == "out.weight":
                load(out.weight, part)
            elif name == "out_bias":
                load(out.bias, part)
            else:
                self.get_parameter(name)[group].copy_(part)

    def forward(self, x_TD: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
        """[T, D] -> [T, D]."""
        q, k, v = self._project(self.qkv, x_TD.to(dtype), groups).chunk(3, dim=-1)
        y_TD = self.attend(q, k, v)
        if self.inner_norm is not None:
            onehot = groups.onehot(groups.modality_T, len(self.qkv))
            y_TD = self.inner_norm(y_TD.float(), onehot).to(dtype)
        return self._project(self.out, y_TD, groups)

    def _project(self, layers: nn.ModuleList, x_TD: Tensor, groups: Groups) -> Tensor:
        first: Tensor = layers[VISION](x_TD)[0]
        if len(layers) == 1:
            return first
        is_image = (groups.modality_T == VISION)[:, None]
        return torch.where(is_image, first, layers[TEXT](x_TD)[0])


class Block(nn.Module):
    """x + s1 * attention(norm1(x)), then x + s2 * feed_forward(norm2(x)). What runs along is float32."""

    def __init__(self, config: ModelConfig, index: int, prefix: str, vllm_config: VllmConfig) -> None:
        super().__init__()
        self.is_fused = config.vl_start is not None and index >= config.vl_start
        num_groups = 2 if config.multiway_attention else 1
        self.attn = Attention(config, f"{prefix}.attn")
        self.ffn: DenseFeedForward | MixtureFeedForward
        if index in config.moe_blocks:
            self.ffn = MixtureFeedForward(config, self.is_fused, f"{prefix}.ffn", vllm_config)
        else:
            self.ffn = DenseFeedForward(config, self.is_fused, f"{prefix}.ffn")
        with set_default_torch_dtype(torch.float32):
            self.norm1 = GroupedNorm(config.dim, num_groups, config.norm_eps)
            self.norm2 = GroupedNorm(config.dim, 3 if self.is_fused else 2, config.norm_eps)
            has_scale = config.layer_scale is not None
            self.scale1 = nn.Parameter(torch.empty(config.dim)) if has_scale else None
            self.scale2 = nn.Parameter(torch.empty(config.dim)) if has_scale else None

    def load(self, name: str, tensor: Tensor) -> None:
        """Take a tensor of the checkpoint."""
        part, _, rest = name.partition(".")
        if part in ("attn", "ffn"):
            getattr(self, part).load(rest, tensor)
        else:
            self.get_parameter(name).copy_(tensor)

    def forward(self, x_TD: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
        """[T, D] -> [T, D]."""
        onehot = groups.onehot(groups.modality_T, self.norm1.weight.shape[0])
        y_TD = self.attn(self.norm1(x_TD, onehot), groups, dtype)
        x_TD = x_TD + (y_TD if self.scale1 is None else y_TD * self.scale1)
        pool_T = groups.fused_T if self.is_fused else groups.modality_T
        rows = groups.fused_rows if self.is_fused else groups.modality_rows
        onehot = groups.onehot(pool_T, self.norm2.weight.shape[0])
        y_TD = self.ffn(self.norm2(x_TD, onehot).to(dtype), pool_T, rows)
        out_TD: Tensor = x_TD + (y_TD if self.scale2 is None else y_TD * self.scale2)
        return out_TD


class Encoder(nn.Module):
    """All blocks and the final norm."""

    def __init__(self, config: ModelConfig, prefix: str, vllm_config: VllmConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(config, index, f"{prefix}.blocks.{index}", vllm_config)
            for index in range(config.num_layers)
        )
        with set_default_torch_dtype(torch.float32):
            groups = 2 if config.multiway_attention else 1
            self.norm = GroupedNorm(config.dim, groups, config.norm_eps) if config.final_norm else None

    def forward(self, x_TD: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
        """[T, D] -> [T, D]."""
        for block in self.blocks:
            x_TD = block(x_TD, groups, dtype)
        if self.norm is None:
            return x_TD
        y_TD: Tensor = self.norm(x_TD, groups.onehot(groups.modality_T, self.norm.weight.shape[0]))
        return y_TD


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
