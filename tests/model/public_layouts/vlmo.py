"""VLMo: text first, shared attention, modality feed-forwards, VL feed-forward on top."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_model.config import ModelConfig

from .equations import (
    DIM,
    EMBED,
    GRID,
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

VLMO_START, VLMO_TEXT, VLMO_TABLE_TEXT = 2, 7, 11


def vlmo_weights() -> Weights:
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.cls_token": (1, 1, DIM),
        "transformer.patch_embed.proj.weight": (DIM, 3, PATCH, PATCH),
        "transformer.patch_embed.proj.bias": (DIM,),
        "text_embeddings.word_embeddings.weight": (VOCAB, DIM),
        "text_embeddings.token_type_embeddings.weight": (2, DIM),
        "token_type_embeddings.weight": (2, DIM),
        "relative_position_bias_table": ((2 * GRID - 1) ** 2 + 3 + 2 * VLMO_TABLE_TEXT + 2, HEADS * LAYERS),
        "itc_text_proj.fc.weight": (EMBED, DIM),
        "itc_image_proj.fc.weight": (EMBED, DIM),
        **affine("text_embeddings.LayerNorm", DIM),
        **affine("transformer.norm", DIM),
        **dense("pooler.dense", DIM, DIM),
        **dense("vqa_classifier.0", DIM, 2 * DIM),
        **affine("vqa_classifier.1", 2 * DIM),
        **dense("vqa_classifier.3", 2 * DIM, NUM_ANSWERS),
    }
    for i in range(LAYERS):
        p = f"transformer.blocks.{i}"
        sides = ("text", "imag", "vl") if i >= VLMO_START else ("text", "imag")
        shapes |= {f"{p}.gamma_1": (DIM,), f"{p}.gamma_2": (DIM,), **affine(f"{p}.norm1", DIM)}
        shapes |= {
            f"{p}.attn.qkv.weight": (3 * DIM, DIM),
            f"{p}.attn.q_bias": (DIM,),
            f"{p}.attn.v_bias": (DIM,),
        }
        shapes |= dense(f"{p}.attn.proj", DIM, DIM)
        for side in sides:
            shapes |= affine(f"{p}.norm2_{side}", DIM)
            shapes |= dense(f"{p}.mlp_{side}.fc1", DIM, HIDDEN) | dense(f"{p}.mlp_{side}.fc2", HIDDEN, DIM)
    weights = fill(shapes)
    # as small as trained embeddings are: the epsilon of the norm shows
    weights["text_embeddings.word_embeddings.weight"] *= 0.01
    weights["text_embeddings.token_type_embeddings.weight"] *= 0.01
    return weights


def vlmo_index() -> Tensor:
    """Rows of the table for the padded pair, as VLMo builds them."""
    num_image = (2 * GRID - 1) ** 2 + 3
    total = num_image + 2 * VLMO_TABLE_TEXT + 2
    grid = torch.stack(torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")).flatten(1)
    relative = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0) + GRID - 1
    image = torch.zeros(NUM_PATCHES + 1, NUM_PATCHES + 1, dtype=torch.int64)
    image[1:, 1:] = relative[..., 0] * (2 * GRID - 1) + relative[..., 1]
    image[0, :], image[:, 0], image[0, 0] = num_image - 3, num_image - 2, num_image - 1
    positions = torch.arange(VLMO_TEXT - 1)
    text = torch.zeros(VLMO_TEXT, VLMO_TEXT, dtype=torch.int64)
    text[1:, 1:] = positions[None, :] - positions[:, None] - (2 - VLMO_TABLE_TEXT) + num_image + 2
    text[0, :], text[:, 0], text[0, 0] = total - 3, total - 2, total - 1
    to_image = torch.full((VLMO_TEXT, NUM_PATCHES + 1), num_image)
    to_text = torch.full((NUM_PATCHES + 1, VLMO_TEXT), num_image + 1)
    return torch.cat([torch.cat([text, to_image], 1), torch.cat([to_text, image], 1)])


def vlmo_states(w: Weights, pixels: Tensor | None, ids: Tensor | None) -> Tensor:
    """The final states of the real tokens."""
    parts, real = [], []
    if ids is not None:
        padded = F.pad(ids, (0, VLMO_TEXT - len(ids)))
        text = w["text_embeddings.word_embeddings.weight"][padded]
        text = text + w["text_embeddings.token_type_embeddings.weight"][0]
        text = apply_norm(w, "text_embeddings.LayerNorm", text, 1e-12)
        parts.append(text + w["token_type_embeddings.weight"][0])
        real.append(torch.arange(VLMO_TEXT) < len(ids))
    if pixels is not None:
        proj = "transformer.patch_embed.proj"
        image = F.conv2d(pixels, w[f"{proj}.weight"], w[f"{proj}.bias"], stride=PATCH)[0].flatten(1).T
        image = torch.cat([w["transformer.cls_token"][0], image])
        parts.append(image + w["token_type_embeddings.weight"][1])
        real.append(torch.ones(len(image), dtype=torch.bool))
    x, mask = torch.cat(parts), torch.cat(real)
    index = vlmo_index()
    if pixels is None:
        index = index[:VLMO_TEXT, :VLMO_TEXT]
    elif ids is None:
        index = index[VLMO_TEXT:, VLMO_TEXT:]
    bias = w["relative_position_bias_table"][index].permute(2, 0, 1).chunk(LAYERS)
    for i in range(LAYERS):
        p = f"transformer.blocks.{i}"
        h = apply_norm(w, f"{p}.norm1", x, 1e-6)
        qkv_bias = torch.cat([w[f"{p}.attn.q_bias"], torch.zeros(DIM), w[f"{p}.attn.v_bias"]])
        q, k, v = (h @ w[f"{p}.attn.qkv.weight"].T + qkv_bias).chunk(3, dim=1)
        y = attend(q, k, v, bias[i].masked_fill(~mask, -torch.inf))
        x = x + w[f"{p}.gamma_1"] * apply_dense(w, f"{p}.attn.proj", y)

        def mlp(side: str, x: Tensor, p: str = p) -> Tensor:
            h = apply_norm(w, f"{p}.norm2_{side}", x, 1e-6)
            h = apply_dense(w, f"{p}.mlp_{side}.fc2", F.gelu(apply_dense(w, f"{p}.mlp_{side}.fc1", h)))
            return x + w[f"{p}.gamma_2"] * h

        if ids is None:
            x = mlp("imag", x)
        elif pixels is None:
            x = mlp("text", x)
        elif i < VLMO_START:
            x = torch.cat([mlp("text", x[:VLMO_TEXT]), mlp("imag", x[VLMO_TEXT:])])
        else:
            x = mlp("vl", x)
    return apply_norm(w, "transformer.norm", x, 1e-6)[mask]


def vlmo_config() -> ModelConfig:
    return ModelConfig(
        dim=DIM,
        num_layers=LAYERS,
        num_heads=HEADS,
        ffn_dim=HIDDEN,
        vocab_size=VOCAB,
        image_size=SIDE,
        patch_size=PATCH,
        max_text=VLMO_TABLE_TEXT,
        vl_start=VLMO_START,
        layer_scale=0.1,
        absolute_position=False,
        relative_position=True,
        type_embeddings=True,
        text_embedding_norm=True,
        heads=heads(),
    )


def vlmo_converted(w: Weights) -> Weights:
    types = w["text_embeddings.token_type_embeddings.weight"]
    ours = {
        "embeddings.words": w["text_embeddings.word_embeddings.weight"] + types[0],
        "embeddings.image_cls": w["transformer.cls_token"][0],
        "embeddings.types": w["token_type_embeddings.weight"],
        "embeddings.stem.proj.weight": w["transformer.patch_embed.proj.weight"].flatten(1),
        "embeddings.stem.proj.bias": w["transformer.patch_embed.proj.bias"],
        "encoder.relative.table": w["relative_position_bias_table"],
        "heads.itc.text_proj.weight": w["itc_text_proj.fc.weight"],
        "heads.itc.image_proj.weight": w["itc_image_proj.fc.weight"],
    }
    for kind in ("weight", "bias"):
        ours[f"embeddings.text_norm.{kind}"] = w[f"text_embeddings.LayerNorm.{kind}"]
        ours[f"encoder.norm.{kind}"] = w[f"transformer.norm.{kind}"][None]
        for name, theirs in (
            ("pooler", "pooler.dense"),
            ("up", "vqa_classifier.0"),
            ("norm", "vqa_classifier.1"),
            ("out", "vqa_classifier.3"),
        ):
            ours[f"heads.vqa.{name}.{kind}"] = w[f"{theirs}.{kind}"]
    for i in range(LAYERS):
        p, q = f"transformer.blocks.{i}", f"encoder.blocks.{i}"
        pools = {"V": "imag", "T": "text"} | ({"VL": "vl"} if i >= VLMO_START else {})
        ours |= {f"{q}.scale{n}": w[f"{p}.gamma_{n}"] for n in (1, 2)}
        ours |= {f"{q}.attn.{side}_bias": w[f"{p}.attn.{side}_bias"][None] for side in "qv"}
        ours[f"{q}.attn.qkv.weight"] = w[f"{p}.attn.qkv.weight"][None]
        ours[f"{q}.attn.out.weight"] = w[f"{p}.attn.proj.weight"][None]
        ours[f"{q}.attn.out_bias"] = w[f"{p}.attn.proj.bias"][None]
        for kind, short in (("weight", "w"), ("bias", "b")):
            ours[f"{q}.norm1.{kind}"] = w[f"{p}.norm1.{kind}"][None]
            ours[f"{q}.norm2.{kind}"] = torch.stack(
                [w[f"{p}.norm2_{side}.{kind}"] for side in pools.values()]
            )
            for pool, side in pools.items():
                for n in (1, 2):
                    ours[f"{q}.ffn.pools.{pool}.{short}{n}"] = w[f"{p}.mlp_{side}.fc{n}.{kind}"][None]
    return ours
