import dataclasses
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import ModelConfig
from vlmoe_model.errors import CheckpointError
from vlmoe_model.explanation import from_numbers
from vlmoe_model.inputs import Example, Job
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import pack
from vlmoe_model.routing_mode import DEFAULT, OVERFLOWS, Overflow, RoutingMode
from vlmoe_model.runner import Runner
from vlmoe_model.tokenizer import Tokenizer


@pytest.fixture
def network(config: ModelConfig, build_network: Callable[..., VLMoE]) -> VLMoE:
    return build_network(config)


@pytest.fixture
def path(network: VLMoE, saved: Callable[..., Path]) -> Path:
    return saved(state=network.state_dict())


@torch.no_grad()
def expected_of(network: VLMoE, jobs: list[Job]) -> list[torch.Tensor]:
    packed = pack(jobs, network.config)
    rows = [row for output in network(packed) for row in output]
    return [row for _, row in sorted(zip(packed.jobs, rows, strict=True), key=lambda pair: pair[0])]


def test_a_saved_network_answers_as_before(
    path: Path, network: VLMoE, config: ModelConfig, mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    """Jobs of all heads, with and without image and text, in one call; each answer at its place."""
    jobs = mixed_jobs(config)
    runner = Runner.load(path, dtype="fp32")
    answers = runner.run(jobs)
    assert runner.config == config
    assert [(a.dtype, a.shape) for a in answers] == [
        (np.float32, (config.head(job.head).out_dim,)) for job in jobs
    ]
    for answer, expected in zip(answers, expected_of(network, jobs), strict=True):
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["auto", "fp32", "bf16"])
def test_an_answer_ignores_its_batch_in_every_dtype(
    path: Path, config: ModelConfig, mixed_jobs: Callable[[ModelConfig], list[Job]], dtype: str
) -> None:
    jobs, runner = mixed_jobs(config), Runner.load(path, dtype=dtype)
    for job, answer in zip(jobs, runner.run(jobs), strict=True):
        assert np.array_equal(runner.run([job])[0], answer)


def test_weights_stored_in_bf16_are_served(
    network: VLMoE,
    config: ModelConfig,
    saved: Callable[..., Path],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
) -> None:
    jobs = mixed_jobs(config)
    runner = Runner.load(saved("bf16", state=network.state_dict(), dtype=torch.bfloat16), dtype="fp32")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.bfloat16())
    for answer, expected in zip(runner.run(jobs), expected_of(network, jobs), strict=True):
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_facts_of_the_checkpoint(path: Path, network: VLMoE) -> None:
    runner = Runner.load(path, dtype="fp32")
    assert runner.num_parameters == sum(parameter.numel() for parameter in network.parameters())
    assert runner.logit_scale == pytest.approx(network.heads["matching"].logit_scale.exp().item())
    assert (runner.device, runner.dtype) == ("cpu", "fp32")
    assert runner.directory.path == path


def test_without_a_contrastive_head_the_scale_is_one(
    config: ModelConfig, tmp_path: Path, tokenizer: Tokenizer, labels: dict[str, list[str]]
) -> None:
    config = dataclasses.replace(config, heads=(config.head("shapes"),))
    save(tmp_path / "one", config, VLMoE(config).state_dict(), tokenizer, {"shapes": labels["shapes"]})
    assert Runner.load(tmp_path / "one").logit_scale == 1.0


def tensor_bytes() -> int:
    """Bytes of the floating-point tensors that Python still reaches, each storage once; packed ones have no storage."""
    gc.collect()
    sizes = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and not thing.is_mkldnn:
            sizes[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(sizes.values())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_weights_are_in_memory_once(
    config: ModelConfig,
    tmp_path: Path,
    tokenizer: Tokenizer,
    labels: dict[str, list[str]],
    build_job: Callable[..., Job],
    dtype: str,
) -> None:
    """What is left beside the packed matrices is small: embeddings, norms, biases."""
    config = dataclasses.replace(config, dim=64, ffn_dim=256, moe_blocks=(0, 1))
    save(tmp_path / "wide", config, VLMoE(config).state_dict(), tokenizer, labels)
    before = tensor_bytes()
    runner = Runner.load(tmp_path / "wide", dtype=dtype)
    runner.run([build_job(config, "questions", 5)])
    assert runner.num_parameters > 600_000
    assert tensor_bytes() - before < 0.1 * 4 * runner.num_parameters


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("restored_threads")
def test_threads_are_set_on_request(path: Path) -> None:
    Runner.load(path, threads=2)
    assert torch.get_num_threads() == 2
    Runner.load(path)
    assert torch.get_num_threads() == 2


def test_an_unknown_head_is_named(path: Path) -> None:
    runner = Runner.load(path)
    with pytest.raises(KeyError, match="no head 'colours'; heads: questions"):
        runner.run([Job("colours", Example(tokens=np.array([2, 3], np.int32)))])


def test_an_image_of_another_size_is_refused(path: Path) -> None:
    runner = Runner.load(path)
    with pytest.raises(ValueError, match=r"'shapes' takes images of \[8, 8, 3\], got one of \[16, 16, 3\]"):
        runner.run([Job("shapes", Example(image=np.zeros((16, 16, 3), np.uint8)))])


def test_no_jobs_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="at least one job"):
        Runner.load(path).run([])


def test_a_checkpoint_of_another_network_is_refused(
    network: VLMoE, saved: Callable[..., Path], config: ModelConfig
) -> None:
    state = network.state_dict()
    state["encoder.blocks.0.ffn.pools.V.w1"] = state["encoder.blocks.0.ffn.pools.V.w1"][:, :-1].clone()
    with pytest.raises(CheckpointError, match=r"model.safetensors.*encoder.blocks.0.ffn.pools.V.w1"):
        Runner.load(saved("bent", state=state))
    del state["encoder.blocks.0.ffn.pools.V.w1"]
    with pytest.raises(CheckpointError, match=r"encoder\.blocks\.0\.ffn\.pools\.V\.w1"):
        Runner.load(saved("holed", state=state))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_job_that_asks_for_its_routes_gets_them_behind_its_output(
    path: Path, config: ModelConfig, mixed_jobs: Callable[[ModelConfig], list[Job]], dtype: str
) -> None:
    jobs, runner = mixed_jobs(config), Runner.load(path, dtype=dtype)
    plain = runner.run(jobs)
    asking = [dataclasses.replace(job, explain=place % 3 == 0) for place, job in enumerate(jobs)]
    for job, answer, expected in zip(asking, runner.run(asking), plain, strict=True):
        size = config.head(job.head).out_dim
        assert np.array_equal(answer[:size], expected)
        if not job.explain:
            assert len(answer) == size
            continue
        num_tokens = sum(job.num_tokens(config.patch_size))
        (layer,) = from_numbers(answer[size:], config, num_tokens)
        assert layer.layer == 1
        assert (layer.experts_TK >= 0).all()
        assert np.array_equal(runner.run([job])[0], answer)


def test_a_mode_of_the_runner_or_of_the_job(
    path: Path, config: ModelConfig, mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    mode, jobs = RoutingMode(0.25, "drop"), mixed_jobs(config)
    plain, limited = Runner.load(path, dtype="fp32"), Runner.load(path, dtype="fp32", mode=mode)
    own, in_mode = plain.run(jobs), limited.run(jobs)
    asked = plain.run([dataclasses.replace(job, mode=mode) for job in jobs])
    exempt = limited.run([dataclasses.replace(job, mode=DEFAULT) for job in jobs])
    assert any(not np.array_equal(a, b) for a, b in zip(own, in_mode, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(in_mode, asked, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(own, exempt, strict=True))
    with pytest.raises(ValueError, match="one forward pass has one routing mode, got"):
        plain.run([jobs[0], dataclasses.replace(jobs[1], mode=mode)])


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_a_token_without_an_expert_shows_in_its_routes(
    path: Path, config: ModelConfig, build_job: Callable[..., Job], overflow: Overflow
) -> None:
    """A picture alone: 5 tokens, 4 experts, so one slot each."""
    job = dataclasses.replace(build_job(config, "shapes"), explain=True, mode=RoutingMode(0.5, overflow))
    answer = Runner.load(path, dtype="fp32").run([job])[0]
    (layer,) = from_numbers(answer[2:], config, 5)
    experts = layer.experts_TK[:, 0]
    assert max(np.bincount(experts[experts >= 0], minlength=4)) == 1
    assert (experts < 0).sum() >= 1
    assert (layer.gates_TK[experts < 0] == 0).all()
