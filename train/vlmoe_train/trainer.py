"""The loop: rows -> one packed forward pass over all tasks -> losses -> one step.

build -> (prepare | resume) -> [ batch -> forward -> backward -> clip -> AdamW ] x steps -> checkpoint
"""

import ctypes
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vlmoe_model.checkpoint.weights import save
from vlmoe_model.packing import SequenceRun, assemble
from vlmoe_model.routing import Routing
from vlmoe_train.config import TrainConfig
from vlmoe_train.model_building import Setup, build
from vlmoe_train.optim import freeze_experts, learning_rate, make_optimizer
from vlmoe_train.state import load_state, save_state
from vlmoe_train.tasks import Batch

METRICS = "metrics.jsonl"

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


class Trainer:
    """One run. `out` receives metrics.jsonl, the state to resume from, and the checkpoint."""

    def __init__(self, config: TrainConfig, setup: Setup, out: Path) -> None:
        self.config, self.setup, self.out = config, setup, out
        self.network = setup.network
        if config.freeze_experts:
            freeze_experts(self.network)
        self.modules = nn.ModuleDict({"network": self.network})
        for index, task in enumerate(setup.tasks):
            self.modules[f"task{index}"] = task
        self.optimizer = make_optimizer(config, self.modules.values())
        self.step = 0
        self.seconds = 0.0

    def start(self) -> None:
        """Prepare tasks with the untrained network."""
        self.network.eval()
        for index, task in enumerate(self.setup.tasks):
            torch.manual_seed(self.config.seed + index)
            task.prepare(self._embed)

    def resume(self) -> None:
        """Go on where `out` stopped.

        Raises:
            StateError: nothing there, or of another recipe.
        """
        self.step = load_state(self.out, self.modules, self.optimizer)
        lines = (self.out / METRICS).read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["step"] <= self.step]
        self.seconds = json.loads(kept[-1])["seconds"] if kept else 0.0
        (self.out / METRICS).write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def run(self, stop_at: int | None = None) -> None:
        """Train to the end, or to `stop_at` steps (a run that was interrupted there)."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.modules.train()
        if self.config.freeze_experts:
            for name, module in self.network.named_modules():
                if name.endswith(".routers"):
                    module.eval()
        last = min(self.config.steps, stop_at or self.config.steps)
        started, before = time.monotonic(), self.seconds
        with (
            (self.out / METRICS).open("a", encoding="utf-8") as metrics,
            tqdm(total=self.config.steps, initial=self.step, desc=self.config.name, mininterval=2.0) as bar,
        ):
            while self.step < last:
                values = self.train_step()
                self.step += 1
                self.seconds = before + time.monotonic() - started
                bar.update()
                if self.step % self.config.log_every == 0 or self.step == last:
                    row = {"step": self.step, "seconds": round(self.seconds, 1)}
                    row |= {name: round(float(value), 5) for name, value in values.items()}
                    metrics.write(json.dumps(row) + "\n")
                    metrics.flush()
                    bar.set_postfix_str(f"loss {row['loss']:.3f}")
                if self.step % self.config.save_every == 0 or self.step == last:
                    save_state(self.out, self.modules, self.optimizer, self.step)
                    self.save_checkpoint({"steps": self.step, "train_seconds": round(self.seconds)})

    def train_step(self) -> dict[str, Tensor]:
        """One optimiser step over one batch of every task."""
        # every random draw of a step follows from the seed and the step alone
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        batches = [task.batch(self.config.seed, self.step) for task in self.setup.tasks]
        total, values = self._losses(batches)
        rate = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.modules.parameters(), self.config.clip_norm)
        self.optimizer.step()
        return {"loss": total.detach(), "lr": torch.tensor(rate), "grad_norm": norm, **values}

    def _losses(self, batches: Sequence[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
        log: list[Routing] = []
        runs = [run for batch in batches for run in batch.runs]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            outputs = self.network(assemble(runs, range(sum(run.num_sequences for run in runs))), log)
        total = torch.zeros(()) if self.config.freeze_experts else self.network.aux_loss(log)
        values = {"aux": total.detach()}
        first = 0
        for task, batch in zip(self.setup.tasks, batches, strict=True):
            losses = batch.loss(outputs[first : first + len(batch.runs)])
            first += len(batch.runs)
            total = total + task.recipe.weight * losses["loss"]
            values |= {f"{task.recipe.data}.{name}": value.detach() for name, value in losses.items()}
        return total, values

    def _embed(self, runs: Sequence[SequenceRun]) -> list[Tensor]:
        return list(self.network(assemble(runs, range(sum(run.num_sequences for run in runs)))))

    def save_checkpoint(self, metrics: dict[str, Any] | None = None) -> None:
        """Write what `vlmoe serve` loads into `out`, beside the run's own files; config.json comes last."""
        staged = self.out / "staged"
        save(
            staged,
            self.network.config,
            self.network.state_dict(),
            self.setup.tokenizer,
            {name: list(labels) for name, labels in self.setup.labels.items() if labels},
            card=self.config.card,
            metrics=metrics,
            dtype=torch.bfloat16,
        )
        for path in sorted(staged.iterdir(), key=lambda path: path.name == "config.json"):
            target = self.out / path.name
            if path.is_dir() and target.exists():
                shutil.rmtree(target)
            path.replace(target)
        staged.rmdir()


def keep_freed_memory() -> None:
    """Have glibc reuse large blocks; by default each one is given back and paged in again, a fifth of a step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            mallopt(option, (1 << 31) - 1)


def train(
    config: TrainConfig, data: Path, out: Path, *, resume: bool, report: Callable[[str], None]
) -> Trainer:
    """Build, train to the end, save.

    Raises:
        DataError, StateError, ValueError: see `build` and `Trainer.resume`.
    """
    keep_freed_memory()
    setup = build(config, data)
    trainer = Trainer(config, setup, out)
    if resume:
        trainer.resume()
        report(f"resuming at step {trainer.step} of {config.steps}")
    else:
        trainer.start()
    trainer.run()
    report(f"wrote {out}")
    return trainer
