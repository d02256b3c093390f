"""What both published models are written with: plain layers over a dictionary of weights, and their inputs.

Each model is written out from its own equations over a dictionary with its own names, padded and masked as its authors
do it. The mapping to our names is what a converter does; nothing but reshaping, stacking and one addition.
"""

# D = width, L = tokens of a sequence

import numpy as np
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
