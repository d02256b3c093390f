"""A tiny model: configuration, tokenizer, labels, weights, checkpoint; networks and jobs for it; backends."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vlmoe_kernels.choice import why_not_native
from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.inputs import Example, Job
from vlmoe_model.network import VLMoE
from vlmoe_model.tokenizer import Tokenizer, train_wordpiece

TEXTS = ("what shape is in the image", "is there a red circle", "a pair of scissors", "two cats sleeping")


@pytest.fixture
def config() -> ModelConfig:
    image = ImageSpec(size=8)
    return ModelConfig(
        dim=8,
        num_layers=2,
        num_heads=2,
        ffn_dim=16,
        vocab_size=120,
        image_size=8,
        patch_size=4,
        max_text=12,
        moe_blocks=(1,),
        num_experts=4,
        vl_start=1,
        heads=(
            HeadConfig(name="questions", task="vqa", out_dim=3, image=image, max_text=12),
            HeadConfig(name="shapes", task="image_classification", out_dim=2, image=image, max_text=0),
            HeadConfig(name="entailment", task="text_classification", out_dim=2, image=None, max_text=12),
            HeadConfig(name="matching", task="contrastive", out_dim=6, image=image, max_text=8),
        ),
    )


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_wordpiece(TEXTS, 100)


@pytest.fixture
def labels() -> dict[str, list[str]]:
    return {"questions": ["yes", "no", "circle"], "shapes": ["round", "square"], "entailment": ["no", "yes"]}


@pytest.fixture
def state(config: ModelConfig) -> dict[str, Tensor]:
    """Weights under the names of the network, with the experts of block 1 on dim 0."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"embeddings.words": (120, 8), "encoder.norm.weight": (1, 8)}
    for block, pools in ((0, ("V", "T")), (1, ("V", "T", "VL"))):
        for pool in pools:
            experts = config.num_experts if block in config.moe_blocks and pool != "VL" else 1
            shapes[f"encoder.blocks.{block}.ffn.pools.{pool}.w1"] = (experts, 16, 8)
            shapes[f"encoder.blocks.{block}.ffn.pools.{pool}.b1"] = (experts, 16)
    shapes["encoder.blocks.1.ffn.routers.V.weight"] = (4, 8)
    shapes |= {f"heads.{head.name}.out.weight": (head.out_dim, 8) for head in config.heads}
    shapes["heads.matching.logit_scale"] = ()
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def saved(
    tmp_path: Path,
    config: ModelConfig,
    state: dict[str, Tensor],
    tokenizer: Tokenizer,
    labels: dict[str, list[str]],
) -> Callable[..., Path]:
    """saved(name, **changes): save the tiny checkpoint with some arguments of `save` changed; its path."""

    def build(name: str = "checkpoint", **changes: object) -> Path:
        arguments = {"config": config, "state": state, "tokenizer": tokenizer, "labels": labels, **changes}
        save(tmp_path / name, **arguments)  # type: ignore[arg-type]
        return tmp_path / name

    return build


@pytest.fixture(params=["cpu", "cpu_native"])
def cpu_backend(request: pytest.FixtureRequest) -> str:
    """The name of each backend that serves on CPU."""
    if request.param == "cpu_native" and (reason := why_not_native()):
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """As many threads for torch and the kernels."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def build_network() -> Callable[..., VLMoE]:
    """build_network(config): in eval mode, every parameter random, so that none hides behind a zero or a one."""

    def build(config: ModelConfig, seed: int = 0) -> VLMoE:
        torch.manual_seed(seed)
        network = VLMoE(config).eval()
        for name, parameter in network.named_parameters():
            is_gain = name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "mid_weight"))
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape) * (0.1 if is_gain else 0.4) + is_gain)
        return network

    return build


@pytest.fixture
def build_job() -> Callable[..., Job]:
    """build_job(config, head, num_text, seed): random inputs of the kinds that the head takes."""

    def build(config: ModelConfig, name: str, num_text: int = 0, seed: int = 0) -> Job:
        rng = np.random.default_rng(seed)
        head = config.head(name)
        image = tokens = None
        if num_text:
            tokens = rng.integers(0, config.vocab_size, num_text).astype(np.int32)
        if head.image is not None and not (head.task == "contrastive" and num_text):
            image = rng.integers(0, 256, (head.image.size, head.image.size, 3)).astype(np.uint8)
        return Job(name, Example(image=image, tokens=tokens))

    return build


@pytest.fixture
def mixed_jobs(build_job: Callable[..., Job]) -> Callable[[ModelConfig], list[Job]]:
    """mixed_jobs(config): all heads of the tiny configuration, several lengths, in no order."""

    def build(config: ModelConfig) -> list[Job]:
        wanted = [
            *[("questions", length) for length in (5, 9, 3, 5, 12)],
            *[("shapes", 0)] * 3,
            *[("entailment", length) for length in (4, 11, 4)],
            *[("matching", length) for length in (0, 3, 0, 8, 3)],
        ]
        jobs = [build_job(config, name, length, seed) for seed, (name, length) in enumerate(wanted)]
        return [jobs[i] for i in np.random.default_rng(0).permutation(len(jobs))]

    return build
