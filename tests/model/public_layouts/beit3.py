"""BEiT-3: image first, everything per modality (A vision, B language), sub-norms, no VL feed-forward."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_model.config import ModelConfig

from .equations import (
    DIM,
    EMBED,
    HEADS,
    HIDDEN,
    LAYERS,
    NUM_ANSWERS,
    NUM_PATCHES,
    PATCH,
    SIDE,
    VOCAB,
    Weights,
    affine,
    apply_dense,
    apply_norm,
    attend,
    dense,
    fill,
    heads,
)

BEIT3_POSITIONS = 12


def beit3_weights() -> Weights:
    shapes: dict[str, tuple[int, ...]] = {
        "beit3.text_embed.weight": (VOCAB, DIM),
        "beit3.vision_embed.cls_token": (1, 1, DIM),
        "beit3.vision_embed.proj.weight": (DIM, 3, PATCH, PATCH),
        "beit3.vision_embed.proj.bias": (DIM,),
        "beit3.encoder.embed_positions.A.weight": (NUM_PATCHES + 3, DIM),
        "beit3.encoder.embed_positions.B.weight": (BEIT3_POSITIONS, DIM),
        "language_head.weight": (EMBED, DIM),
        "vision_head.weight": (EMBED, DIM),
        **affine("pooler.norm", DIM),
        **dense("pooler.dense", DIM, DIM),
        **dense("head.0", DIM, 2 * DIM),
        **affine("head.1", 2 * DIM),
        **dense("head.3", 2 * DIM, NUM_ANSWERS),
        **affine("fc_norm", DIM),
        **dense("head", DIM, NUM_ANSWERS),
    }
    for m in "AB":
        shapes |= affine(f"beit3.encoder.layer_norm.{m}", DIM)
        for i in range(LAYERS):
            p = f"beit3.encoder.layers.{i}"
            for name in "qkv":
                shapes |= dense(f"{p}.self_attn.{name}_proj.{m}", DIM, DIM)
            shapes |= dense(f"{p}.self_attn.out_proj.{m}", DIM, DIM)
            for norm in ("self_attn.inner_attn_ln", "self_attn_layer_norm", "final_layer_norm"):
                shapes |= affine(f"{p}.{norm}.{m}", DIM)
            shapes |= affine(f"{p}.ffn.{m}.ffn_layernorm", HIDDEN)
            shapes |= dense(f"{p}.ffn.{m}.fc1", DIM, HIDDEN) | dense(f"{p}.ffn.{m}.fc2", HIDDEN, DIM)
    weights = fill(shapes)
    # rows that no position ever reads
    for m in "AB":
        weights[f"beit3.encoder.embed_positions.{m}.weight"][:2] = torch.nan
    return weights


def beit3_states(w: Weights, pixels: Tensor | None, ids: Tensor | None, final_norm: bool = True) -> Tensor:
    parts, split = [], 0
    if pixels is not None:
        proj = "beit3.vision_embed.proj"
        image = F.conv2d(pixels, w[f"{proj}.weight"], w[f"{proj}.bias"], stride=PATCH)[0].flatten(1).T
        image = torch.cat([w["beit3.vision_embed.cls_token"][0], image])
        split = len(image)
        parts.append(image + w["beit3.encoder.embed_positions.A.weight"][2 : 2 + split])
    if ids is not None:
        text = w["beit3.text_embed.weight"][ids]
        parts.append(text + w["beit3.encoder.embed_positions.B.weight"][2 : 2 + len(ids)])
    x = torch.cat(parts)

    def multiway(f: Callable[[Weights, str, Tensor], Tensor], name: str, x: Tensor) -> Tensor:
        return torch.cat([f(w, name.format(m="A"), x[:split]), f(w, name.format(m="B"), x[split:])])

    def norm(w: Weights, name: str, x: Tensor) -> Tensor:
        return apply_norm(w, name, x, 1e-5)

    for i in range(LAYERS):
        p = f"beit3.encoder.layers.{i}"
        h = multiway(norm, p + ".self_attn_layer_norm.{m}", x)
        q, k, v = (multiway(apply_dense, f"{p}.self_attn.{name}_proj" + ".{m}", h) for name in "qkv")
        y = attend(q, k, v, torch.zeros(HEADS, len(x), len(x)))
        y = multiway(norm, p + ".self_attn.inner_attn_ln.{m}", y)
        x = x + multiway(apply_dense, p + ".self_attn.out_proj.{m}", y)
        h = multiway(norm, p + ".final_layer_norm.{m}", x)
        h = F.gelu(multiway(apply_dense, p + ".ffn.{m}.fc1", h))
        h = multiway(norm, p + ".ffn.{m}.ffn_layernorm", h)
        x = x + multiway(apply_dense, p + ".ffn.{m}.fc2", h)
    return multiway(norm, "beit3.encoder.layer_norm.{m}", x) if final_norm else x


def beit3_config(*, final_norm: bool = True, pool: str = "cls") -> ModelConfig:
    return ModelConfig(
        dim=DIM,
        num_layers=LAYERS,
        num_heads=HEADS,
        ffn_dim=HIDDEN,
        vocab_size=VOCAB,
        image_size=SIDE,
        patch_size=PATCH,
        max_text=BEIT3_POSITIONS - 2,
        vl_start=None,
        order="image_first",
        position_offset=2,
        sub_ln=True,
        multiway_attention=True,
        key_bias=True,
        final_norm=final_norm,
        norm_eps=1e-5,
        heads=heads(pool),
    )


def beit3_converted(w: Weights) -> Weights:
    def both(name: str) -> Tensor:
        return torch.stack([w[name.format(m=m)] for m in "AB"])

    ours = {
        "embeddings.words": w["beit3.text_embed.weight"],
        "embeddings.image_cls": w["beit3.vision_embed.cls_token"][0],
        "embeddings.stem.proj.weight": w["beit3.vision_embed.proj.weight"].flatten(1),
        "embeddings.stem.proj.bias": w["beit3.vision_embed.proj.bias"],
        "embeddings.image_positions": w["beit3.encoder.embed_positions.A.weight"],
        "embeddings.text_positions": w["beit3.encoder.embed_positions.B.weight"],
    }
    for i in range(LAYERS):
        p, q = f"beit3.encoder.layers.{i}", f"encoder.blocks.{i}"
        qkv = [both(f"{p}.self_attn.{name}_proj" + ".{m}.weight") for name in "qkv"]
        ours[f"{q}.attn.qkv.weight"] = torch.cat(qkv, dim=1)
        ours |= {f"{q}.attn.{n}_bias": both(f"{p}.self_attn.{n}_proj" + ".{m}.bias") for n in "qkv"}
        ours[f"{q}.attn.out.weight"] = both(p + ".self_attn.out_proj.{m}.weight")
        ours[f"{q}.attn.out_bias"] = both(p + ".self_attn.out_proj.{m}.bias")
        for kind, short in (("weight", "w"), ("bias", "b")):
            ours[f"{q}.attn.inner_norm.{kind}"] = both(p + ".self_attn.inner_attn_ln.{m}." + kind)
            ours[f"{q}.norm1.{kind}"] = both(p + ".self_attn_layer_norm.{m}." + kind)
            ours[f"{q}.norm2.{kind}"] = both(p + ".final_layer_norm.{m}." + kind)
            for pool, m in (("V", "A"), ("T", "B")):
                ours[f"{q}.ffn.pools.{pool}.mid_{kind}"] = w[f"{p}.ffn.{m}.ffn_layernorm.{kind}"][None]
                for n in (1, 2):
                    ours[f"{q}.ffn.pools.{pool}.{short}{n}"] = w[f"{p}.ffn.{m}.fc{n}.{kind}"][None]
    return ours


def beit3_normed(w: Weights) -> Weights:
    return {
        f"encoder.norm.{kind}": torch.stack([w[f"beit3.encoder.layer_norm.{m}.{kind}"] for m in "AB"])
        for kind in ("weight", "bias")
    }
