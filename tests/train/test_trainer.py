import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from vlmoe_model.inputs import Example, Job
from vlmoe_model.runner import Runner
from vlmoe_train.config import TrainConfig, load_recipe
from vlmoe_train.model_building import build
from vlmoe_train.trainer import METRICS, Trainer, train


def trainer_for(config: TrainConfig, out: Path) -> Trainer:
    return Trainer(config, build(config, out / "data"), out)


def rows(out: Path) -> list[dict]:
    """metrics.jsonl without the clock."""
    lines = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_the_losses_fall(recipe_file: Path, tmp_path: Path):
    config = load_recipe(str(recipe_file), {"steps": 200, "lr": 0.01, "log_every": 1, "save_every": 200})
    train(config, tmp_path, tmp_path / "run", resume=False, report=lambda line: None)
    logged = rows(tmp_path / "run")
    for name in ("squares_classes.loss", "squares_answers.loss", "squares_captions.loss"):
        assert np.mean([r[name] for r in logged[-5:]]) < 0.7 * np.mean([r[name] for r in logged[:5]]), name


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_a_resumed_run_ends_with_the_same_bits(
    recipe_file: Path, tmp_path: Path, precision: str, backend: str
):
    config = load_recipe(str(recipe_file), {"precision": precision, "backend": backend})
    whole = trainer_for(config, tmp_path / "whole")
    whole.start()
    whole.run()
    first = trainer_for(config, tmp_path / "parts")
    first.start()
    first.run(stop_at=6)
    second = trainer_for(config, tmp_path / "parts")
    second.resume()
    assert second.step == 6
    second.run()
    for (name, a), b in zip(whole.modules.named_parameters(), second.modules.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")


def test_a_crash_between_log_and_state_repeats_no_line(recipe_file: Path, tmp_path: Path):
    config = load_recipe(str(recipe_file), {"save_every": 4, "log_every": 1})
    first = trainer_for(config, tmp_path / "run")
    first.start()
    first.run(stop_at=4)
    with (tmp_path / "run" / METRICS).open("a") as file:
        file.write('{"step": 5, "seconds": 1.0, "loss": 3.0}\n')
    second = trainer_for(config, tmp_path / "run")
    second.resume()
    second.run()
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 9))


def test_the_output_directory_is_what_the_runner_loads(recipe_file: Path, tmp_path: Path):
    config = load_recipe(str(recipe_file))
    trained = train(config, tmp_path, tmp_path / "run", resume=False, report=lambda line: None)
    runner = Runner.load(tmp_path / "run", dtype="fp32")
    assert runner.directory.labels["answers"] == ("red", "green", "blue")
    tokens = trained.setup.tokenizer.encode("what colour is it?")
    image = np.full((16, 16, 3), 200, np.uint8)
    logits, embedding = runner.run([Job("answers", Example(image, tokens)), Job("captions", Example(image))])
    assert logits.shape == (3,)
    assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-5)


def test_frozen_experts_keep_their_bits_and_the_rest_learns(recipe_file: Path, tmp_path: Path):
    trainer = trainer_for(load_recipe(str(recipe_file), {"freeze_experts": True}), tmp_path / "run")
    trainer.start()
    before = {name: p.clone() for name, p in trainer.network.named_parameters()}
    trainer.run()
    changed = {name for name, p in trainer.network.named_parameters() if not torch.equal(p, before[name])}
    experts = {
        name
        for name in before
        if name.startswith(("encoder.blocks.1.ffn.pools", "encoder.blocks.1.ffn.rout"))
    }
    assert experts
    assert not changed & experts
    assert "encoder.blocks.0.ffn.pools.V.w1" in changed
    assert all(row["aux"] == 0.0 for row in rows(tmp_path / "run"))


def test_our_kernels_and_plain_torch_take_the_same_steps(recipe_file: Path, tmp_path: Path):
    ends = []
    for backend in ("auto", "eager"):
        config = load_recipe(str(recipe_file), {"precision": "fp32", "backend": backend})
        trainer = trainer_for(config, tmp_path / backend)
        trainer.start()
        trainer.run()
        ends.append(trainer.network.state_dict())
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], rtol=1e-3, atol=1e-3, msg=name)


def test_a_backend_without_gradients_is_refused(recipe_file: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="backend cpu has no gradients"):
        trainer_for(load_recipe(str(recipe_file), {"backend": "cpu"}), tmp_path / "run")


def test_all_tasks_share_one_forward_pass(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = trainer_for(load_recipe(str(recipe_file)), tmp_path / "run")
    heads: list[set[str]] = []
    forward = trainer.network.forward
    monkeypatch.setattr(
        trainer.network,
        "forward",
        lambda p, log: (heads.append({r.head for r in p.runs}), forward(p, log))[1],
    )
    trainer.modules.train()
    trainer.train_step()
    assert heads == [{"classes", "answers", "captions"}]


def test_fine_tuning_starts_from_a_base_and_stores_what_changed(recipe_file: Path, tmp_path: Path):
    config = load_recipe(str(recipe_file))
    base = train(config, tmp_path, tmp_path / "base", resume=False, report=lambda line: None)
    fields = yaml.safe_load(recipe_file.read_text())
    del fields["model"]
    fields |= {
        "base": str(tmp_path / "base"),
        "freeze_experts": True,
        "delta": True,
        "heads": fields["heads"][:1],
    }
    fields["tasks"] = fields["tasks"][:1]
    recipe_file.write_text(yaml.safe_dump(fields))
    tuned = train(
        load_recipe(str(recipe_file)), tmp_path, tmp_path / "tuned", resume=False, report=lambda line: None
    )
    stored = load_file(tmp_path / "tuned" / "model.safetensors")
    experts = [
        name for name in tuned.network.state_dict() if name.startswith("encoder.blocks.1.ffn.pools.V.")
    ]
    assert experts
    assert not set(experts) & set(stored)
    assert "encoder.blocks.0.ffn.pools.V.w1" in stored
    before, after = base.network.state_dict(), tuned.network.state_dict()
    for name in experts:
        assert torch.equal(before[name].bfloat16(), after[name].bfloat16()), name
    runner = Runner.load(tmp_path / "tuned", dtype="fp32")
    assert [head.name for head in runner.config.heads] == ["classes"]
    assert runner.run([Job("classes", Example(np.zeros((16, 16, 3), np.uint8)))])[0].shape == (3,)
