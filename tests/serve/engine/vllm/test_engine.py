"""Answers of vLLM against our own engine, on CPU."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vlmoe_model.checkpoint.directory import open_directory, resolve
from vlmoe_model.config import ModelConfig
from vlmoe_model.errors import InputError
from vlmoe_model.inputs import Example, Job
from vlmoe_model.runner import Runner
from vlmoe_serve.engine import torch_engine
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.vllm import engine

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM has an environment of its own: make test-vllm"
    ),
]
# of the largest logit: two libraries that add in another order
TOLERANCE = 1e-5

Outputs = Sequence[npt.NDArray[np.float32]]


@contextmanager
def loaded(options: EngineOptions) -> Iterator[engine.VllmEngine]:
    made = engine.load(options)
    try:
        yield made
    finally:
        made.close()


def error(theirs: Outputs, ours: Outputs) -> float:
    """The largest difference, as a share of the largest value."""
    assert [one.shape for one in theirs] == [one.shape for one in ours]
    scale = max(float(np.abs(one).max()) for one in ours)
    return max(float(np.abs(a - b).max()) for a, b in zip(theirs, ours, strict=True)) / scale


@pytest.mark.parametrize(
    ("name", "ranks", "settings"),
    [
        ("mixture", 1, ()),
        ("mixture", 2, ()),
        ("mixture", 2, (("enable_expert_parallel", "true"),)),
        ("dense", 1, ()),
    ],
)
def test_ragged_batches_have_our_answers(
    name: str,
    ranks: int,
    settings: tuple[tuple[str, str], ...],
    checkpoint: Callable[[str], Path],
    ragged_jobs: Callable[[ModelConfig], list[Job]],
) -> None:
    path = checkpoint(name)
    runner = Runner.load(path, dtype="fp32", threads=1)
    jobs = ragged_jobs(runner.config)
    with loaded(EngineOptions(path, dtype="fp32", ranks=ranks, settings=settings)) as vllm:
        assert error(vllm.run(jobs), runner.run(jobs)) < TOLERANCE
        alone = [vllm.run([job])[0] for job in jobs[:5]]
        assert error(alone, runner.run(jobs)[:5]) < TOLERANCE
        vllm.beat()


def test_the_demo_checkpoint_and_a_step_that_is_cut(ragged_jobs: Callable[..., list[Job]]) -> None:
    path = resolve("demo")
    ours = torch_engine.load(EngineOptions(path, dtype="fp32"))
    settings = (("max_num_batched_tokens", "64"), ("max_num_seqs", "3"))
    jobs = ragged_jobs(open_directory(path).config, 12)
    with loaded(EngineOptions(path, dtype="fp32", settings=settings)) as vllm:
        assert error(vllm.run(jobs), ours.run(jobs)) < TOLERANCE
        assert dataclasses.replace(vllm.facts, backend="") == dataclasses.replace(ours.facts, backend="")
        for batch in vllm.warm_up_batches():
            assert len(vllm.run(batch)) == len(batch)
        # one picture with many texts travels and is embedded once, another head's normalisation apart
        image = np.full((96, 96, 3), 77, np.uint8)
        many = [Job("vqa", Example(image, np.array([2, 9 + i, 3], np.int32))) for i in range(9)]
        assert error(vllm.run(many), ours.run(many)) < TOLERANCE


def test_bf16_is_as_near_to_fp32_as_ours(ragged_jobs: Callable[..., list[Job]]) -> None:
    path = resolve("demo")
    exact, rounded = (Runner.load(path, dtype=dtype, threads=1) for dtype in ("fp32", "bf16"))
    jobs = ragged_jobs(exact.config, 12)
    truth = exact.run(jobs)
    with loaded(EngineOptions(path, dtype="bf16")) as vllm:
        theirs = np.concatenate([np.abs(a - b) for a, b in zip(vllm.run(jobs), truth, strict=True)])
    ours = np.concatenate([np.abs(a - b) for a, b in zip(rounded.run(jobs), truth, strict=True)])
    assert 0 < theirs.mean() < 2 * ours.mean()


def test_what_a_head_does_not_take_ends_nothing(checkpoint: Callable[[str], Path]) -> None:
    image, tokens = np.zeros((24, 24, 3), np.uint8), np.array([2, 3], np.int32)
    with loaded(EngineOptions(checkpoint("mixture"), dtype="fp32")) as vllm:
        for head, example, says in (
            ("questions", Example(tokens=tokens), "questions"),
            ("colours", Example(image=image[:8]), "colours"),
            ("tones", Example(tokens=np.array([2, 120], np.int32)), "token ids"),
            ("matching", Example(image[:16, :16], tokens), "matching"),
        ):
            with pytest.raises(InputError, match=says):
                vllm.run([Job(head, example)])
        assert vllm.run([Job("questions", Example(image, tokens))])[0].shape == (5,)


def test_a_checkpoint_that_vllm_cannot_run_is_refused_in_one_line(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="2 attention heads"):
        engine.load(EngineOptions(checkpoint("mixture"), ranks=4))
    with pytest.raises(ValueError, match="made for cpu"):
        engine.load(EngineOptions(checkpoint("mixture"), device="cuda"))
