"""What a step costs on this machine, measured: a program of its own, so that nothing of it stays in anybody's memory.

python -P -m vlmoe_serve.engine.measuring '{"device": ..., "sizes": {...}}'   ->   one line of JSON (`Found`)

Medians of a second or less each, ranks of one thread on CPU. Experts are visited in turn, more of them than caches
hold, so weights come from memory, as in a model. What cannot be measured with what is here, links between hosts and
between GPUs where there is one, is told by name and keeps what `machines.py` has for it.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from vlmoe_kernels import Backend, Pool, RoutePlan, backend, make_plan
from vlmoe_kernels import int8 as plain_int8
from vlmoe_kernels.choice import choose_backend
from vlmoe_kernels.int8 import Int8Backend, quantise_pool
from vlmoe_kernels.ops import GroupedOp, Run
from vlmoe_model.precision import choose_device
from vlmoe_serve.engine.link_times import between_gpus, between_processes, median_us, nccl_start_us
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.machines import Sizes, costs_on

# beyond what caches hold; on a GPU so much that reading it takes longer than starting the kernels
_EXPERTS_BYTES = {"cpu": 192_000_000, "cuda": 2_400_000_000}
_MIN_EXPERTS, _MAX_EXPERTS = 8, 256
# a picture of 224 x 224 has so many patches of 16 x 16, and its class token
_LENGTH = 197
_HEAD_DIM = 64
_TOKENS = {"cpu": 96, "cuda": 512}
# both large enough that a GPU is not waiting for the host
_SEQUENCES = {"cpu": (1, 6), "cuda": (96, 256)}
_ROWS = 1024


class Measuring:
    """One kind of device, one model's sizes."""

    def __init__(self, device: str, sizes: Sizes) -> None:
        self.device = choose_device(device)
        self.sizes = sizes
        self.name = choose_backend("auto", self.device)
        self._kernels: Backend = backend(self.name)
        self._dtype = torch.float32 if sizes.weight_bytes == 4 else torch.bfloat16
        torch.manual_seed(0)

    def costs(self) -> tuple[Costs, list[str]]:
        """All constants, and the names of those that were not measured."""
        assumed = costs_on(self.device, self.sizes)
        token_us, expert_us, layer_us = self._experts()
        dense_token_us, dense_layer_us = self._dense()
        move = self._move()
        missing = ["far_us"]
        near_us, start_us, ranks_per_node = assumed.near_us, assumed.start_us, assumed.ranks_per_node
        if self.device == "cpu":
            near_us, start_us = between_processes(self._row(_ROWS))
        else:
            start_us = nccl_start_us(self._row(1))
            if torch.cuda.device_count() > 1:
                ranks_per_node = torch.cuda.device_count()
                near_us = between_gpus(self._row(64 * _ROWS))
            else:
                missing.insert(0, "near_us")
        costs = Costs(
            token_us=_digits(token_us),
            expert_us=_digits(expert_us),
            near_us=_digits(near_us),
            far_us=assumed.far_us,
            start_us=_digits(start_us),
            dense_token_us=_digits(dense_token_us),
            dense_layer_us=_digits(dense_layer_us + layer_us),
            token_bytes=assumed.token_bytes,
            expert_bytes=assumed.expert_bytes,
            shared_bytes=assumed.shared_bytes,
            move_bytes_per_us=_digits(move),
            ranks_per_node=ranks_per_node,
        )
        return costs, missing

    def _row(self, num: int) -> Tensor:
        return torch.randn(num, self.sizes.dim).to(self.device, self._dtype)

    def _pool(self, num: int) -> Pool:
        """As many experts: the same numbers, each in memory of its own."""
        dim, hidden = self.sizes.dim, self.sizes.ffn_dim
        one = (torch.randn(hidden, dim) / dim**0.5, torch.randn(hidden))
        two = (torch.randn(dim, hidden) / hidden**0.5, torch.randn(dim))
        stacks = (t.to(self._dtype).expand(num, *t.shape).contiguous() for t in (*one, *two))
        return Pool(*(t.to(self.device) for t in stacks))

    def _packed(self, pool: Pool, *, quantised: bool) -> GroupedOp:
        if not quantised:
            return self._kernels.grouped_ffn([pool], 1e-6)
        kernels = self._kernels if isinstance(self._kernels, Int8Backend) else plain_int8
        return kernels.int8_ffn([quantise_pool(pool)], 1e-6)

    def _experts(self) -> tuple[float, float, float]:
        """A token through an expert, the weights of an expert, and what a mixture takes whatever there is."""
        num = min(max(_MIN_EXPERTS, _EXPERTS_BYTES[self.device] // self.sizes.expert_bytes), _MAX_EXPERTS)
        experts = self._packed(self._pool(num), quantised=self.sizes.weight_bytes == 1)

        def layer_us(num_active: int, each: int) -> float:
            groups = torch.arange(num_active).repeat_interleave(each).unsqueeze(1)
            plan: RoutePlan = make_plan(groups, None, num)
            on_device = plan if self.device == "cpu" else plan.to(self.device)
            x_TD = self._row(num_active * each)
            return self._median_us(lambda: experts(x_TD, on_device))

        many = _TOKENS[self.device]
        one, few, full = layer_us(1, 1), layer_us(num, 1), layer_us(num, many)
        token_us = (full - few) / (num * (many - 1))
        expert_us = max(0.0, (few - one) / (num - 1) - token_us)
        return token_us, expert_us, max(0.0, one - token_us - expert_us)

    def _dense(self) -> tuple[float, float]:
        """A token in all beside a mixture (two attentions, a dense layer), and what that takes whatever there is."""
        dim = self.sizes.dim
        heads = max(1, dim // _HEAD_DIM)
        weight_OD = torch.randn(3 * dim, dim).to(self.device, self._dtype) / dim**0.5
        project_in = self._kernels.linear(weight_OD, None)
        project_out = self._kernels.linear(weight_OD[:dim].contiguous(), None)
        feed = self._packed(self._pool(1), quantised=False)

        def block_us(num_sequences: int) -> float:
            x_TD = self._row(num_sequences * _LENGTH)
            runs = [Run(num_sequences, _LENGTH)]
            plan = make_plan(torch.zeros(len(x_TD), 1, dtype=torch.int64), None, 1)
            on_device = plan if self.device == "cpu" else plan.to(self.device)
            gain_D = torch.ones(dim, device=self.device)

            def normed() -> Tensor:
                return torch.nn.functional.layer_norm(x_TD.float(), (dim,), gain_D, gain_D).to(self._dtype)

            def work() -> None:
                for _ in range(2):
                    q_THC, k_THC, v_THC = (
                        t.reshape(len(x_TD), heads, -1).contiguous()
                        for t in project_in(normed()).chunk(3, dim=1)
                    )
                    attended = self._kernels.attention(q_THC, k_THC, v_THC, runs, None)
                    x_TD + project_out(attended.reshape(len(x_TD), dim))
                x_TD + feed(normed(), on_device)
                normed()

            return self._median_us(work)

        few, many = _SEQUENCES[self.device]
        token_us = max(block_us(many) - block_us(few), 0.0) / ((many - few) * _LENGTH)
        return token_us, max(0.0, block_us(1) - _LENGTH * token_us)

    def _move(self) -> float:
        """Bytes of an expert a microsecond, from the host's memory to where it computes."""
        pool = _on(self._pool(1), "cpu")

        def work() -> GroupedOp:
            return self._packed(_on(pool, self.device), quantised=self.sizes.weight_bytes == 1)

        return self.sizes.expert_bytes / self._median_us(work)

    def _median_us(self, work: Callable[[], object]) -> float:
        return median_us(work, self.device)


def _on(pool: Pool, device: str) -> Pool:
    return Pool._make(None if t is None else t.to(device) for t in pool)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")


def _digits(value: float) -> float:
    """Four of them: more were not measured."""
    return float(f"{value:.4g}")


def main(argv: list[str]) -> int:
    """Measure, and print what was found."""
    asked = json.loads(argv[0])
    # whatever a library prints must not stand in the answer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(1)
    measuring = Measuring(asked["device"], Sizes(**asked["sizes"]))
    with torch.inference_mode():
        costs, missing = measuring.costs()
    machine = torch.cuda.get_device_name() if measuring.device == "cuda" else f"one thread of {_processor()}"
    found = {"machine": machine, "kernels": measuring.name, "missing": missing, "costs": asdict(costs)}
    answers.write(json.dumps(found) + "\n")
    answers.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
