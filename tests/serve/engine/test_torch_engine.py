import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.inputs import Example, Job
from vlmoe_model.network import VLMoE
from vlmoe_model.routing_mode import RoutingMode
from vlmoe_model.runner import Runner
from vlmoe_model.tokenizer import train_wordpiece
from vlmoe_serve.engine import ENGINES
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.failures import EngineStartError
from vlmoe_serve.engine.protocol import BatchDone
from vlmoe_serve.engine.supervisor import Supervisor
from vlmoe_serve.engine.torch_engine import load
from vlmoe_serve.placement.trace_format import read_meta
from vlmoe_serve.placement.trace_reader import read_trace

IMAGE = ImageSpec(size=16)
CONFIG = ModelConfig(
    dim=16,
    num_layers=2,
    num_heads=2,
    ffn_dim=32,
    vocab_size=120,
    image_size=16,
    patch_size=4,
    max_text=12,
    moe_blocks=(1,),
    num_experts=4,
    vl_start=1,
    heads=(
        HeadConfig(name="questions", task="vqa", out_dim=3, image=IMAGE, max_text=12),
        HeadConfig(name="shapes", task="image_classification", out_dim=2, image=IMAGE, max_text=0),
        HeadConfig(name="entailment", task="text_classification", out_dim=2, image=None, max_text=12),
        HeadConfig(name="matching", task="contrastive", out_dim=6, image=IMAGE, max_text=8),
    ),
)
LABELS = {"questions": ["yes", "no", "circle"], "shapes": ["round", "square"], "entailment": ["no", "yes"]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    torch.manual_seed(0)
    tokenizer = train_wordpiece(["what shape is in the image", "is there a red circle"], 100)
    save(directory, CONFIG, VLMoE(CONFIG).state_dict(), tokenizer, LABELS)
    return directory


def options_for(checkpoint: Path) -> EngineOptions:
    return EngineOptions(checkpoint, device="cpu", dtype="fp32", threads=1)


def jobs() -> list[Job]:
    rng = np.random.default_rng(0)

    def image() -> Any:
        return rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)

    def text(length: int) -> Any:
        return np.array([2, *rng.integers(5, 60, length - 2), 3], np.int32)

    return [
        Job("questions", Example(image(), text(9))),
        Job("matching", Example(tokens=text(6))),
        Job("shapes", Example(image())),
        Job("entailment", Example(tokens=text(12))),
        Job("matching", Example(image())),
        Job("questions", Example(image(), text(4))),
    ]


def with_engine(checkpoint: Path, use: Callable[[Supervisor], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(120):
            supervisor = Supervisor(ENGINES["torch"], options_for(checkpoint))
            await supervisor.start()
            try:
                await use(supervisor)
            finally:
                await supervisor.stop()

    asyncio.run(main())


def test_the_process_answers_bit_for_bit_what_the_runner_answers_here(checkpoint: Path) -> None:
    threads = torch.get_num_threads()
    runner = Runner.load(checkpoint, dtype="fp32", threads=1)
    expected = runner.run(jobs())
    torch.set_num_threads(threads)

    def check(done: BatchDone, numbers: list[int]) -> None:
        for block, number in zip(done.outputs, numbers, strict=True):
            np.testing.assert_array_equal(np.frombuffer(block, np.float32), expected[number])

    async def use(supervisor: Supervisor) -> None:
        check(await supervisor.run(jobs()), list(range(6)))
        check(await supervisor.run(jobs()[:1]), [0])
        facts = supervisor.info.facts
        assert (facts.dtype, facts.device, facts.patch_size) == ("fp32", "cpu", 4)
        assert facts.num_parameters == runner.num_parameters
        assert facts.logit_scale == runner.logit_scale
        assert facts.model_id.startswith("m-")
        assert facts.space_id is not None

    with_engine(checkpoint, use)


def test_the_warm_up_touches_every_head(checkpoint: Path) -> None:
    threads = torch.get_num_threads()
    engine = load(options_for(checkpoint))
    first, *others = engine.warm_up_batches()
    assert {job.head for job in first} == {head.name for head in CONFIG.heads}
    for batch in (first, *others):
        assert len(engine.run(batch)) == len(batch)
    torch.set_num_threads(threads)


def test_a_broken_checkpoint_is_refused_with_one_line_that_names_the_file(
    checkpoint: Path, tmp_path: Path
) -> None:
    for file in checkpoint.rglob("*"):
        target = tmp_path / file.relative_to(checkpoint)
        if file.is_dir():
            target.mkdir()
        else:
            target.write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(EngineStartError, match=r"model\.safetensors") as error:
        asyncio.run(Supervisor(ENGINES["torch"], options_for(tmp_path)).start())
    assert "\n" not in str(error.value)


def test_an_unknown_dtype_is_refused_with_what_is_allowed(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="dtype must be one of auto, fp32, bf16"):
        load(EngineOptions(checkpoint, dtype="fp8"))


def test_routing_is_recorded_after_the_warm_up_and_answers_stay(checkpoint: Path, tmp_path: Path) -> None:
    plain = load(options_for(checkpoint))
    traced = load(replace(options_for(checkpoint), trace_dir=tmp_path / "trace"))
    for batch in traced.warm_up_batches():
        traced.run(batch)
    traced.warmed_up()
    for expected, got in zip(plain.run(jobs()), traced.run(jobs()), strict=True):
        np.testing.assert_array_equal(got, expected)
    traced.close()
    recorded = read_trace(tmp_path / "trace")
    meta = read_meta(tmp_path / "trace")
    assert meta is not None
    assert meta.device == "cpu"
    assert meta.sizes is not None
    assert (meta.sizes.dim, meta.sizes.weight_bytes) == (traced.runner.config.dim, 4)
    assert 0 < meta.sizes.shared_parameters < traced.facts.num_parameters
    # the fusion pool, where pairs go, has no router
    assert recorded.num_sequences == sum(
        (j.example.image is None) != (j.example.tokens is None) for j in jobs()
    )
    assert recorded.num_steps == 1


def test_what_cannot_be_recorded_is_said_at_once(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(
        '{"model_id": "m-other", "layers": [1], "experts": [4, 4], "ranks": 1}'
    )
    with pytest.raises(ValueError, match=r"holds the trace of another model \(m-other\)"):
        load(replace(options_for(checkpoint), trace_dir=tmp_path))


def test_jobs_of_several_modes_share_a_batch_and_not_a_forward_pass(checkpoint: Path) -> None:
    threads = torch.get_num_threads()
    engine, mode = load(options_for(checkpoint)), RoutingMode(0.25, "drop")
    exact = engine.run(jobs())
    degraded = engine.run([replace(job, mode=mode) for job in jobs()])
    mixed = engine.run([replace(job, mode=mode) if n % 2 else job for n, job in enumerate(jobs())])
    for place in (0, 2, 4):
        np.testing.assert_array_equal(mixed[place], exact[place])
    alone = engine.run([replace(job, mode=mode) for job in jobs()[1::2]])
    for place, answer in zip((1, 3, 5), alone, strict=True):
        np.testing.assert_array_equal(mixed[place], answer)
    assert any(not np.array_equal(a, b) for a, b in zip(exact, degraded, strict=True))
    torch.set_num_threads(threads)


def test_an_engine_with_a_mode_says_so_and_embeds_into_another_space(checkpoint: Path) -> None:
    threads = torch.get_num_threads()
    plain = load(options_for(checkpoint)).facts
    mode = RoutingMode(1.0, "reroute")
    facts = load(replace(options_for(checkpoint), mode=mode)).facts
    assert (plain.routing_mode, facts.routing_mode) == ("", "capacity=1;overflow=reroute")
    assert facts.model_id == plain.model_id
    assert plain.space_id is not None
    assert facts.space_id == mode.space(plain.space_id, CONFIG) != plain.space_id
    # the tiny model has one expert a token: a limit of one changes nothing, and is not declared
    same = load(replace(options_for(checkpoint), mode=RoutingMode(top_k=1))).facts
    assert same == plain
    torch.set_num_threads(threads)


def test_offloaded_experts_answer_alike_and_are_reported(checkpoint: Path) -> None:
    plain = load(options_for(checkpoint))
    budget = 9 * 4096
    engine = load(replace(options_for(checkpoint), expert_memory=budget))
    for batch in engine.warm_up_batches():
        engine.run(batch)
    engine.warmed_up()
    for expected, got in zip(plain.run(jobs()), engine.run(jobs()), strict=True):
        np.testing.assert_array_equal(got, expected)
    experts = engine.report().experts
    assert experts is not None
    assert experts.budget_bytes == budget
    # everything fits, and the warm-up does not count
    assert experts.in_memory + experts.ahead > 0
    assert plain.report().experts is None


LOSE_THE_GPU = """
import sys
from pathlib import Path
import torch
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.torch_engine import load
engine = load(EngineOptions(Path(sys.argv[1]), device="cuda", dtype="fp32"))
jobs = engine.warm_up_batches()[0]
engine.run(jobs)
engine.beat()
table = torch.zeros(4, device="cuda")
table[torch.tensor([1 << 20], device="cuda")]
try:
    engine.run(jobs)
except Exception as error:
    print("lost:", type(error).__name__)
try:
    engine.beat()
except Exception:
    print("it says so")
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_whose_context_is_lost_shows_at_the_next_beat(checkpoint: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOSE_THE_GPU, str(checkpoint)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("lost: ")
    assert done.stdout.endswith("it says so\n")


ASK_FOR_TOO_MUCH = """
import sys
from pathlib import Path
import torch
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.torch_engine import load
engine = load(EngineOptions(Path(sys.argv[1]), device="cuda", dtype="fp32"))
jobs = [*engine.warm_up_batches()[0]]
before = engine.run(jobs)
total = torch.cuda.get_device_properties(0).total_memory
torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (8 << 20)) / total)
try:
    engine.run(jobs * 20000)
except torch.OutOfMemoryError:
    print("too much")
engine.beat()
print(all((a == b).all() for a, b in zip(before, engine.run(jobs), strict=True)))
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_batch_beyond_the_memory_of_a_gpu_fails_alone(checkpoint: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK_FOR_TOO_MUCH, str(checkpoint)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "too much\nTrue\n", done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_reports_the_load_of_experts_as_the_cpu_does(checkpoint: Path) -> None:
    loads = []
    for device in ("cuda", "cpu"):
        engine = load(EngineOptions(checkpoint, device=device, dtype="fp32", threads=1))
        engine.run(engine.warm_up_batches()[0])
        engine.warmed_up()
        for jobs in engine.warm_up_batches():
            engine.run(jobs)
        report = engine.report()
        assert report.load is not None
        assert (report.device_bytes > 0) == (device == "cuda")
        loads.append((report.load.tokens_LX.tolist(), report.load.num_layers, report.load.ratio))
    assert loads[0] == loads[1]
