import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vlmoe_model.checkpoint.delta import save_delta
from vlmoe_model.config import ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.runner import Runner
from vlmoe_model.tokenizer import Tokenizer


@pytest.fixture
def state(config: ModelConfig, build_network: Callable[..., VLMoE]) -> dict[str, Tensor]:
    return build_network(config).state_dict()


@pytest.fixture
def family(
    tmp_path: Path,
    config: ModelConfig,
    state: dict[str, Tensor],
    saved: Callable[..., Path],
    tokenizer: Tokenizer,
    labels: dict[str, list[str]],
) -> tuple[Path, Path]:
    """A checkpoint, and a delta that changed all but the mixtures' experts and routers."""
    base = saved(state=state)
    frozen = tuple(f"encoder.blocks.{block}.ffn." for block in config.moe_blocks)
    changed = {name: t if name.startswith(frozen) else t + 0.01 for name, t in state.items()}
    save_delta(tmp_path / "delta", base, config, changed, tokenizer, labels)
    return base, tmp_path / "delta"


def layers(runner: Runner) -> list[int]:
    return [id(layer.module) for layer in runner.layers]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_frozen_layers_are_one_and_answers_are_as_without(
    family: tuple[Path, Path],
    config: ModelConfig,
    mixed_jobs: Callable[[ModelConfig], list[Job]],
    dtype: str,
) -> None:
    jobs = mixed_jobs(config)
    base = Runner.load(family[0], dtype=dtype)
    before = base.run(jobs)
    delta = Runner.load(family[1], dtype=dtype, family=[base])
    same = [a == b for a, b in zip(layers(base), layers(delta), strict=True)]
    assert same == [block in config.moe_blocks for block in range(config.num_layers)]
    alone = Runner.load(family[1], dtype=dtype)
    assert not set(layers(alone)) & set(layers(base))
    for answers, expected in ((delta.run(jobs), alone.run(jobs)), (base.run(jobs), before)):
        assert all(np.array_equal(a, b) for a, b in zip(answers, expected, strict=True))
    assert not np.array_equal(before[0], expected_of(alone, jobs))
    # a family of three: the last finds the layers with either
    assert layers(Runner.load(family[1], dtype=dtype, family=[base, delta])) == layers(delta)


def expected_of(runner: Runner, jobs: list[Job]) -> np.ndarray:
    return runner.run(jobs)[0]


def test_only_the_same_bytes_made_the_same_way_are_shared(family: tuple[Path, Path], tmp_path: Path) -> None:
    base = Runner.load(family[0], dtype="fp32")
    shutil.copytree(family[0], tmp_path / "copy")
    others = [
        Runner.load(tmp_path / "copy", dtype="fp32", family=[base]),
        Runner.load(family[0], dtype="bf16", family=[base]),
        Runner.load(
            family[0], dtype="fp32", backend="cpu" if base.backend != "cpu" else "eager", family=[base]
        ),
    ]
    for other in others:
        assert not set(layers(other)) & set(layers(base))
    weights = family[0] / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content)
    assert not set(layers(Runner.load(family[0], dtype="fp32", family=[base]))) & set(layers(base))


def test_a_network_that_is_gone_leaves_the_layers_to_the_others(
    family: tuple[Path, Path], config: ModelConfig, mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    base = Runner.load(family[0], dtype="fp32")
    delta = Runner.load(family[1], dtype="fp32", family=[base])
    answers = delta.run(mixed_jobs(config))
    del base
    torch.empty(1 << 20).fill_(7.0)
    assert all(np.array_equal(a, b) for a, b in zip(delta.run(mixed_jobs(config)), answers, strict=True))
