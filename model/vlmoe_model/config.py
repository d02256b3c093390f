"""What a VL-MoE network is: one frozen value, saved as `config.json`.

`ModelConfig` describes the encoder, `HeadConfig` one head on top of it with the preprocessing it was trained
with. Everything the published descriptions leave open, and everything that sets VLMo and BEiT-3 apart, is a
field. No torch here: processes that only prepare inputs read it too.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal, get_args

from vlmoe_model.errors import CheckpointError
from vlmoe_model.fields import build

Stem = Literal["patch", "conv", "gradient"]
Router = Literal["top_k", "batch_priority"]
ExpertWeights = Literal["float", "int8"]
AuxLoss = Literal["none", "vloss", "importance", "load", "gshard", "z"]
Task = Literal["vqa", "image_classification", "text_classification", "contrastive"]
Pool = Literal["cls", "mean", "flatten"]
Resize = Literal["bicubic", "bilinear"]
Crop = Literal["none", "content"]
Order = Literal["text_first", "image_first"]

# Far above any model that will be trained: a mistyped or hostile file is refused before it costs memory.
_MAX_WIDTH = 2**20
_MAX_OFFSET = 1024
_LIMITS = {
    "dim": 2**16,
    "num_layers": 1024,
    "num_heads": 1024,
    "ffn_dim": _MAX_WIDTH,
    "vocab_size": 2**24,
    "image_size": 4096,
    "patch_size": 4096,
    "max_text": 2**16,
    "num_experts": 4096,
}


def _check_choice(name: str, value: str, allowed: object) -> None:
    choices = get_args(allowed)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """How a head wants its images: cropped, resized to a square, normalised.

    `crop="content"` first cuts to the box of what differs from the border's colour (drawings on a plain
    ground) and pads that box to a square. mean and std are in units of the 0..1 pixel range.
    `jpeg_draft` lets a JPEG be decoded at 1/2, 1/4 or 1/8 of its size where that is still no smaller than `size`:
    faster, and other pixels. So it belongs to the checkpoint, and to its ids.
    """

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resize: Resize = "bicubic"
    crop: Crop = "none"
    jpeg_draft: bool = False

    def __post_init__(self) -> None:
        _check_choice("resize", self.resize, Resize)
        _check_choice("crop", self.crop, Crop)
        if self.jpeg_draft and self.crop != "none":
            # what is left after the crop may be far smaller than the image that was decoded for it
            raise ValueError(f"jpeg_draft goes with crop none, got crop {self.crop!r}")
        if not 1 <= self.size <= 4096:
            raise ValueError(f"image size must be in [1, 4096], got {self.size}")
        if min(self.std) <= 0:
            raise ValueError(f"image std must be positive, got {self.std}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """One named head. Its labels, where it has any, stand in `labels/NAME.json` of the checkpoint.

    image: preprocessing of its images, or None for a head that takes only text.
    max_text: longest text in tokens, special tokens included; 0 for a head that takes only images.
    pool: which of the sequence's image outputs the head reads (its text side always reads the text's first
        token, [T_CLS]): the first token, the mean of the patches, or all patches side by side.
    out_dim: number of labels, or width of the embedding for `contrastive`.
    """

    name: str
    task: Task
    out_dim: int
    image: ImageSpec | None
    max_text: int
    pool: Pool = "cls"
    hidden: int = 0

    def __post_init__(self) -> None:
        _check_choice(f"task of head {self.name!r}", self.task, Task)
        _check_choice(f"pool of head {self.name!r}", self.pool, Pool)
        if not self.name.isidentifier():
            raise ValueError(f"a head's name must be an identifier, got {self.name!r}")
        if not 1 <= self.out_dim <= _MAX_WIDTH:
            raise ValueError(
                f"out_dim of head {self.name!r} must be in [1, {_MAX_WIDTH}], got {self.out_dim}"
            )
        if not 0 <= self.hidden <= _MAX_WIDTH:
            raise ValueError(f"hidden of head {self.name!r} must be in [0, {_MAX_WIDTH}], got {self.hidden}")
        if self.max_text < 0:
            raise ValueError(f"max_text of head {self.name!r} must not be negative, got {self.max_text}")
        if self.image is None and self.task in ("vqa", "image_classification", "contrastive"):
            raise ValueError(f"head {self.name!r} ({self.task}) needs image preprocessing")
        if self.max_text < 3 and self.task in ("vqa", "text_classification", "contrastive"):
            raise ValueError(
                f"head {self.name!r} ({self.task}) needs max_text of at least 3, got {self.max_text}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The encoder and its heads. Block indices start at 0.

    ffn_dim: width of every feed-forward layer and of every expert.
    moe_blocks: blocks whose vision and language feed-forward layers are pools of `num_experts`.
    expert_weights: how the matrices of mixture blocks are stored; int8 with a scale an output is for inference alone.
    vl_start: first block whose feed-forward layer for image-text pairs is the shared VL one; None: no block.
    capacity_train, capacity_eval: slots per expert over an even share; None means dropless.
    layer_scale: initial value of the residual scales, or None for none (VLMo: 0.1).
    sub_ln: a LayerNorm inside attention and feed-forward layers (BEiT-3).
    multiway_attention: attention projections and norms per modality (BEiT-3).
    relative_position: a learned relative-position bias on attention (VLMo).
    init_std: deviation of the initial matrices of the blocks and the VQA head. 0.02 (BEiT) is for widths near 768;
        a narrow network hardly leaves its start with it: 0.9 / sqrt(dim) is a fair choice.
    position_std: deviation of the initial absolute positions; at least that of the patches, or a network is slow
        to learn where things are.
    position_offset: unused rows at the start of the position tables (BEiT-3: 2).
    """

    dim: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    vocab_size: int
    image_size: int
    patch_size: int
    max_text: int
    moe_blocks: tuple[int, ...] = ()
    num_experts: int = 1
    expert_weights: ExpertWeights = "float"
    vl_start: int | None = None
    top_k: int = 1
    router: Router = "top_k"
    capacity_train: float | None = None
    capacity_eval: float | None = None
    router_noise: float = 1.0
    aux_loss: AuxLoss = "vloss"
    aux_weight: float = 0.01
    stem: Stem = "patch"
    order: Order = "text_first"
    absolute_position: bool = True
    relative_position: bool = False
    position_offset: int = 0
    type_embeddings: bool = False
    text_embedding_norm: bool = False
    layer_scale: float | None = None
    sub_ln: bool = False
    multiway_attention: bool = False
    key_bias: bool = False
    final_norm: bool = True
    norm_eps: float = 1e-6
    init_std: float = 0.02
    position_std: float = 0.02
    drop_path: float = 0.0
    heads: tuple[HeadConfig, ...] = ()

    def __post_init__(self) -> None:
        _check_choice("router", self.router, Router)
        _check_choice("aux_loss", self.aux_loss, AuxLoss)
        _check_choice("stem", self.stem, Stem)
        _check_choice("order", self.order, Order)
        for name, limit in _LIMITS.items():
            if not 1 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must be in [1, {limit}], got {getattr(self, name)}")
        if not 0 <= self.position_offset <= _MAX_OFFSET:
            raise ValueError(f"position_offset must be in [0, {_MAX_OFFSET}], got {self.position_offset}")
        for name in ("capacity_train", "capacity_eval"):
            capacity = getattr(self, name)
            if capacity is not None and capacity <= 0:
                raise ValueError(f"{name} must be positive or null, got {capacity}")
        for name in ("norm_eps", "init_std", "position_std"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}")
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"top_k must be in [1, {self.num_experts}], got {self.top_k}")
        if len(set(self.moe_blocks)) != len(self.moe_blocks):
            raise ValueError(f"moe_blocks names a block twice: {self.moe_blocks}")
        for block in self.moe_blocks:
            if not 0 <= block < self.num_layers:
                raise ValueError(f"moe_blocks must lie in [0, {self.num_layers - 1}], got {block}")
        if self.vl_start is not None and not 0 <= self.vl_start <= self.num_layers:
            raise ValueError(f"vl_start must be in [0, {self.num_layers}] or null, got {self.vl_start}")
        names = [head.name for head in self.heads]
        if len(set(names)) != len(names):
            raise ValueError(f"two heads share a name: {', '.join(names)}")
        for head in self.heads:
            if head.image is not None and head.image.size % self.patch_size:
                raise ValueError(
                    f"image size {head.image.size} of head {head.name!r} is not a multiple of "
                    f"patch_size {self.patch_size}"
                )
            if head.max_text > self.max_text:
                raise ValueError(f"max_text of head {head.name!r} exceeds the encoder's {self.max_text}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    @property
    def grid(self) -> int:
        """Patches along one side of an image of `image_size`."""
        return self.image_size // self.patch_size

    def head(self, name: str) -> HeadConfig:
        """The head of that name.

        Raises:
            KeyError: with the names that exist.
        """
        for head in self.heads:
            if head.name == name:
                return head
        raise KeyError(f"no head {name!r}; heads: {', '.join(h.name for h in self.heads) or 'none'}")

    def dense_twin(self) -> "ModelConfig":
        """The same network with every expert pool replaced by one feed-forward layer."""
        return dataclasses.replace(self, moe_blocks=(), num_experts=1, top_k=1)

    def to_json(self) -> str:
        """The text of `config.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "config.json") -> "ModelConfig":
        """Read what `to_json` wrote.

        Raises:
            CheckpointError: not JSON, an unknown or missing key, a value out of range; names `source`.
        """
        try:
            return build(cls, json.loads(text))
        except (ValueError, OverflowError, RecursionError) as error:
            raise CheckpointError(f"{source}: {error}") from error
