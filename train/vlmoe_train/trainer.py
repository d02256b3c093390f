"""The loop: rows -> one packed forward pass over all tasks -> losses -> one step.

build -> (prepare | resume) -> [ batch -> forward -> backward -> clip -> AdamW ] x steps -> checkpoint
"""

import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vlmoe_kernels.choice import choose_learning_backend
from vlmoe_kernels.heap import keep_freed_memory
from vlmoe_model.checkpoint.delta import save_delta
from vlmoe_model.checkpoint.directory import resolve
from vlmoe_model.checkpoint.weights import save
from vlmoe_model.packing import SequenceRun, assemble
from vlmoe_model.routing import Routing
from vlmoe_train.config import TrainConfig
from vlmoe_train.model_building import Setup, build
from vlmoe_train.optim import freeze_experts, learning_rate, make_optimizer
from vlmoe_train.state import load_state, save_state
from vlmoe_train.tasks import Batch
from vlmoe_train.workers import Worker, join_workers, leave_workers

METRICS = "metrics.jsonl"


class Trainer:
    """One run. `out` receives metrics.jsonl, the state to resume from, and the checkpoint.

    With several workers, each computes its share of every batch, and the first one writes.
    """

    def __init__(self, config: TrainConfig, setup: Setup, out: Path, worker: Worker | None = None) -> None:
        self.config, self.setup, self.out, self.worker = config, setup, out, worker or Worker()
        self.network = setup.network
        self.network.learn_with(choose_learning_backend(config.backend, "cpu"))
        if config.freeze_experts:
            freeze_experts(self.network)
        self.modules = nn.ModuleDict({"network": self.network})
        for index, task in enumerate(setup.tasks):
            task.share = self.worker.share
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
        if not self.worker.is_first:
            return
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
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            desc=self.config.name,
            mininterval=2.0,
            disable=not self.worker.is_first,
        )
        with bar:
            while self.step < last:
                values = self.train_step()
                self.step += 1
                self.seconds = before + time.monotonic() - started
                bar.update()
                if self.worker.is_first:
                    self._keep(values, is_last=self.step == last)
                    bar.set_postfix_str(f"loss {float(values['loss']):.3f}", refresh=False)

    def _keep(self, values: dict[str, Tensor], *, is_last: bool) -> None:
        """Log the step and save the state, when it is their turn."""
        if is_last or self.step % self.config.log_every == 0:
            row = {"step": self.step, "seconds": round(self.seconds, 1)}
            row |= {name: round(float(value), 5) for name, value in values.items()}
            with (self.out / METRICS).open("a", encoding="utf-8") as metrics:
                metrics.write(json.dumps(row) + "\n")
        if is_last or self.step % self.config.save_every == 0:
            save_state(self.out, self.modules, self.optimizer, self.step)
            self.save_checkpoint({"steps": self.step, "train_seconds": round(self.seconds)})

    def train_step(self) -> dict[str, Tensor]:
        """One optimiser step over one batch of every task."""
        # every random draw of a step follows from the seed, the step and the worker alone
        torch.manual_seed((self.config.seed * 1_000_003 + self.step) * self.worker.world + self.worker.rank)
        batches = [task.batch(self.config.seed, self.step) for task in self.setup.tasks]
        total, values = self._losses(batches)
        rate = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.worker.average_gradients(self.modules.parameters())
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
        """Write what `vlmoe serve` loads into `out`, beside the run's own files."""
        write = functools.partial(save, self.out)
        if self.config.delta:
            write = functools.partial(save_delta, self.out, resolve(self.config.base))
        write(
            self.network.config,
            self.network.state_dict(),
            self.setup.tokenizer,
            {name: labels for name, labels in self.setup.labels.items() if labels},
            card=self.config.card,
            metrics=metrics,
            dtype=torch.bfloat16,
        )


def train(
    config: TrainConfig, data: Path, out: Path, *, resume: bool, report: Callable[[str], None]
) -> Trainer:
    """Build, train to the end, save.

    Raises:
        DataError, StateError, ValueError: see `build` and `Trainer.resume`.
    """
    keep_freed_memory()
    worker = join_workers()
    setup = build(config, data)
    trainer = Trainer(config, setup, out, worker)
    if resume:
        trainer.resume()
        report(f"resuming at step {trainer.step} of {config.steps}")
    else:
        trainer.start()
    trainer.run()
    leave_workers()
    report(f"wrote {out}")
    return trainer
