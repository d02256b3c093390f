"""The flags reproduce the published models, parameter for parameter.

Each model is written out below from its own equations over a dictionary with its own names, padded and masked as its
authors do it. The mapping to our names is what a converter does; nothing but reshaping, stacking and one addition.
"""

# D = width, L = tokens of a sequence

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.inputs import Example, Job
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import normalise, pack

Weights = dict[str, Tensor]

DIM, HEADS, HIDDEN, LAYERS, VOCAB, SIDE, PATCH = 8, 2, 16, 3, 40, 12, 4
GRID = SIDE // PATCH
NUM_PATCHES = GRID**2
IMAGE = ImageSpec(size=SIDE)
NUM_ANSWERS, EMBED = 5, 6

INPUTS = {
    "pair": (True, 5),
    "longest pair": (True, 7),
    "image": (True, 0),
    "text": (False, 4),
    "one token": (False, 1),
}


def fill(shapes: dict[str, tuple[int, ...]]) -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def affine(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def dense(name: str, width: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def apply_norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def apply_dense(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """[L, D] each; bias [HEADS, L, L]."""
    q, k, v = (t.view(len(t), HEADS, -1).transpose(0, 1) for t in (q, k, v))
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(1, 2) + bias).softmax(-1)
    return (weights @ v).transpose(0, 1).reshape(-1, DIM)


def job_of(head: str, kind: str, seed: int = 0) -> Job:
    has_image, num_text = INPUTS[kind]
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8) if has_image else None
    return Job(head, Example(image, rng.integers(0, VOCAB, num_text).astype(np.int32) if num_text else None))


def inputs_of(job: Job, config: ModelConfig) -> tuple[Tensor | None, Tensor | None]:
    """Pixels [1, 3, S, S] and ids [L]."""
    image, tokens = job.example.image, job.example.tokens
    pixels = None if image is None else normalise(torch.from_numpy(image)[None], config, job.head)
    return pixels, None if tokens is None else torch.from_numpy(tokens).long()


def heads(pool: str = "cls") -> tuple[HeadConfig, ...]:
    return (
        HeadConfig(name="vqa", task="vqa", out_dim=NUM_ANSWERS, image=IMAGE, max_text=7),
        HeadConfig(name="itc", task="contrastive", out_dim=EMBED, image=IMAGE, max_text=7),
        HeadConfig(
            name="classes",
            task="image_classification",
            out_dim=NUM_ANSWERS,
            image=IMAGE,
            max_text=0,
            pool=pool,
        ),
    )


def load(config: ModelConfig, weights: Weights) -> VLMoE:
    """Our network with those weights; heads that the weights lack keep their start."""
    network = VLMoE(config).eval()
    result = network.load_state_dict(weights, strict=False)
    assert result.unexpected_keys == []
    assert all(name.startswith("heads.") for name in result.missing_keys)
    return network


@torch.no_grad()
def states_of(network: VLMoE, job: Job) -> Tensor:
    return network.encode(pack([job], network.config))[0].x_NLD[0]


@torch.no_grad()
def answer_of(network: VLMoE, job: Job) -> Tensor:
    return network(pack([job], network.config))[0][0]


# ---- VLMo: text first, shared attention, modality feed-forwards, VL feed-forward on top

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


@pytest.mark.parametrize("kind", INPUTS)
def test_vlmo_states(kind: str) -> None:
    w, config = vlmo_weights(), vlmo_config()
    job = job_of("vqa" if kind.endswith("pair") else "itc", kind)
    expected = vlmo_states(w, *inputs_of(job, config))
    torch.testing.assert_close(
        states_of(load(config, vlmo_converted(w)), job), expected, rtol=1e-4, atol=1e-5
    )


def test_vlmo_answers() -> None:
    w, config = vlmo_weights(), vlmo_config()
    job = job_of("vqa", "pair")
    pooled = apply_dense(w, "pooler.dense", vlmo_states(w, *inputs_of(job, config))[0]).tanh()
    hidden = apply_norm(w, "vqa_classifier.1", apply_dense(w, "vqa_classifier.0", pooled), 1e-5)
    expected = apply_dense(w, "vqa_classifier.3", F.gelu(hidden))
    # our heads have the encoder's epsilon, theirs torch's
    torch.testing.assert_close(
        answer_of(load(config, vlmo_converted(w)), job), expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(("kind", "side"), [("image", "image"), ("text", "text")])
def test_vlmo_embeddings(kind: str, side: str) -> None:
    w, config = vlmo_weights(), vlmo_config()
    job = job_of("itc", kind)
    projected = w[f"itc_{side}_proj.fc.weight"] @ vlmo_states(w, *inputs_of(job, config))[0]
    expected = projected / projected.norm()
    torch.testing.assert_close(
        answer_of(load(config, vlmo_converted(w)), job), expected, rtol=1e-4, atol=1e-5
    )


# ---- BEiT-3: image first, everything per modality (A vision, B language), sub-norms, no VL feed-forward

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


@pytest.mark.parametrize("kind", INPUTS)
def test_beit3_states(kind: str) -> None:
    w, config = beit3_weights(), beit3_config()
    job = job_of("vqa" if kind.endswith("pair") else "itc", kind)
    network = load(config, beit3_converted(w) | beit3_normed(w))
    expected = beit3_states(w, *inputs_of(job, config))
    torch.testing.assert_close(states_of(network, job), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name", "side"), [("image", "vision", "image"), ("text", "language", "text")]
)
def test_beit3_embeddings(kind: str, name: str, side: str) -> None:
    w, config = beit3_weights(), beit3_config()
    job = job_of("itc", kind)
    projections = {
        f"heads.itc.{s}_proj.weight": w[f"{n}_head.weight"]
        for n, s in (("vision", "image"), ("language", "text"))
    }
    network = load(config, beit3_converted(w) | beit3_normed(w) | projections)
    projected = w[f"{name}_head.weight"] @ beit3_states(w, *inputs_of(job, config))[0]
    torch.testing.assert_close(answer_of(network, job), projected / projected.norm(), rtol=1e-4, atol=1e-5)
    assert math.isclose(float(answer_of(network, job).norm()), 1.0, abs_tol=1e-5)


def test_beit3_answers() -> None:
    """Without a final norm of its own; the pooler's takes its place, and reads an image token."""
    w, config = beit3_weights(), beit3_config()
    job = job_of("vqa", "pair")
    ours = beit3_converted(w)
    for kind in ("weight", "bias"):
        ours[f"encoder.norm.{kind}"] = w[f"pooler.norm.{kind}"].expand(2, -1)
        for name, theirs in (
            ("pooler", "pooler.dense"),
            ("up", "head.0"),
            ("norm", "head.1"),
            ("out", "head.3"),
        ):
            ours[f"heads.vqa.{name}.{kind}"] = w[f"{theirs}.{kind}"]
    first = beit3_states(w, *inputs_of(job, config), final_norm=False)[0]
    pooled = apply_dense(w, "pooler.dense", apply_norm(w, "pooler.norm", first, 1e-6)).tanh()
    hidden = F.gelu(apply_norm(w, "head.1", apply_dense(w, "head.0", pooled), 1e-6))
    expected = apply_dense(w, "head.3", hidden)
    # our heads have the encoder's epsilon, theirs 1e-6
    torch.testing.assert_close(answer_of(load(config, ours), job), expected, rtol=1e-3, atol=1e-3)


def test_beit3_classes() -> None:
    w, config = beit3_weights(), beit3_config(final_norm=False, pool="mean")
    job = job_of("classes", "image")
    ours = beit3_converted(w)
    for kind in ("weight", "bias"):
        ours[f"heads.classes.pool.norm.{kind}"] = w[f"fc_norm.{kind}"]
        ours[f"heads.classes.out.{kind}"] = w[f"head.{kind}"]
    patches = beit3_states(w, *inputs_of(job, config), final_norm=False)[1:]
    expected = apply_dense(w, "head", apply_norm(w, "fc_norm", patches.mean(0), 1e-6))
    torch.testing.assert_close(answer_of(load(config, ours), job), expected, rtol=1e-3, atol=1e-3)
