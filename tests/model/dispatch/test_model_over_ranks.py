"""Whole models over ranks: what they answer beside one rank, on CPU and on a GPU, and what each holds."""

import dataclasses
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from vlmoe_kernels.choice import choose_backend
from vlmoe_kernels.collectives import Group
from vlmoe_kernels.collectives.distributed import DistributedGroup
from vlmoe_model.config import ModelConfig
from vlmoe_model.dispatch.expert_parallel import nearest_copy
from vlmoe_model.dispatch.holdings import Holdings
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.runner import Runner

from .sharing import COPIES, EVEN, to_the_last_copy

CPU = choose_backend("auto", "cpu")


def placed(*ranks: tuple[list[int], list[int]]) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    return tuple((tuple(image), tuple(text)) for image, text in ranks)


# two mixtures, each placed its own way
UNEVEN = {
    2: Holdings({0: placed(*COPIES[2]), 1: placed(([], [0, 1, 2, 3]), ([0, 1, 2, 3], []))}),
    3: Holdings(dict.fromkeys((0, 1), placed(([0, 1], [0, 1]), ([2], [2]), ([3], [3])))),
    4: Holdings({0: placed(*COPIES[4]), 1: placed(*EVEN[4])}),
}


@pytest.mark.parametrize(
    ("num_ranks", "dtype", "holdings"),
    [
        (2, "fp32", None),
        (2, "bf16", UNEVEN[2]),
        (2, "int8", UNEVEN[2]),
        (3, "fp32", UNEVEN[3]),
        (4, "fp32", None),
        (4, "fp32", UNEVEN[4]),
    ],
)
def test_a_model_over_ranks_answers_with_the_bits_of_one(
    in_group,
    config: ModelConfig,
    build_network: Callable[..., VLMoE],
    saved: Callable[..., Path],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
    num_ranks: int,
    dtype: str,
    holdings: Holdings | None,
) -> None:
    """Every head; jobs shared out unevenly, the last rank has none; both steps."""
    config = dataclasses.replace(config, top_k=2, moe_blocks=(0, 1))
    path = saved(state=build_network(config).state_dict(), config=config)
    jobs = mixed_jobs(config)
    alone = Runner.load(path, dtype=dtype)
    expected = alone.run(jobs)

    def work(group: Group) -> list[np.ndarray]:
        runner = Runner.load(path, dtype=dtype, group=group, holdings=holdings, split=to_the_last_copy)
        assert runner.num_parameters == alone.num_parameters
        assert runner.run(jobs if group.rank == 0 else []) is not None
        return runner.run(jobs[group.rank :: group.size - 1] if group.rank < group.size - 1 else [])

    results = in_group(num_ranks, work)
    for rank, outputs in enumerate(results[:-1]):
        for answer, whole in zip(outputs, expected[rank :: num_ranks - 1], strict=True):
            assert np.array_equal(answer, whole)
    assert results[-1] == []


@pytest.mark.skipif(
    CPU != "cpu_native", reason="of other kernels the bits may depend on the number of threads"
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_threads_that_are_lent_are_not_for_experts_and_change_no_bit(
    in_group,
    config: ModelConfig,
    build_network: Callable[..., VLMoE],
    saved: Callable[..., Path],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
    dtype: str,
) -> None:
    path = saved(state=build_network(config).state_dict(), config=config)
    jobs = mixed_jobs(config)
    expected = Runner.load(path, dtype=dtype, threads=1).run(jobs)

    def work(group: Group) -> list[np.ndarray]:
        before = torch.get_num_threads()
        runner = Runner.load(path, dtype=dtype, threads=1, group=group)
        layer = runner.mixture(config.moe_blocks[0])
        op, seen = layer.op, []

        def watched(x_TD: torch.Tensor, plan: object) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return op(x_TD, plan)

        layer.op = watched
        torch.set_num_threads(2 if group.rank == 0 else 1)
        try:
            answers = runner.run(jobs if group.rank == 0 else [])
            assert seen == [1]
            assert torch.get_num_threads() == (2 if group.rank == 0 else 1)
        finally:
            torch.set_num_threads(before)
        return answers

    for answer, whole in zip(in_group(2, work)[0], expected, strict=True):
        assert np.array_equal(answer, whole)


OVER_TWO_RANKS = """
import os, pickle, sys
from vlmoe_kernels.collectives.shared_memory import SharedMemoryGroup, make_descriptors
from vlmoe_model.runner import Runner

path, backend = sys.argv[1:]
jobs, holdings = pickle.load(sys.stdin.buffer)
first, second = make_descriptors(2)
# not two threads: Triton's interpreter is one at a time
child = os.fork()
group = SharedMemoryGroup(second if child else first, 120.0)
runner = Runner.load(path, device="cpu", dtype="fp32", backend=backend, group=group, holdings=holdings)
answers = runner.run(jobs if child else [])
if child:
    sys.stdout.buffer.write(pickle.dumps(answers))
"""


@pytest.mark.parametrize("name", ["triton", "eager", "cpu"])
def test_every_backend_reaches_experts_of_other_ranks(
    config: ModelConfig,
    build_network: Callable[..., VLMoE],
    saved: Callable[..., Path],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
    name: str,
) -> None:
    """The GPU's kernels under Triton's interpreter, which is chosen before they are imported."""
    config = dataclasses.replace(config, top_k=2, moe_blocks=(0, 1))
    path = saved(state=build_network(config).state_dict(), config=config)
    jobs = mixed_jobs(config)[:6]
    done = subprocess.run(
        [sys.executable, "-c", OVER_TWO_RANKS, str(path), name],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        input=pickle.dumps((jobs, UNEVEN[2])),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    for answer, whole in zip(
        pickle.loads(done.stdout), Runner.load(path, dtype="fp32").run(jobs), strict=True
    ):
        np.testing.assert_allclose(answer, whole, atol=1e-4 * max(1.0, np.abs(whole).max()))


class ThroughHost:
    """Two ranks on one card: rows travel through the memory of the host, as no server does it."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self.rank, self.size = group.rank, group.size
        self.exchange_counts = group.exchange_counts

    def exchange_rows(self, rows_RD, send, receive, order_S=None):
        if order_S is not None:
            rows_RD = rows_RD[order_S]
        return self._group.exchange_rows(rows_RD.cpu(), send, receive).to(rows_RD.device)


@pytest.mark.gpu
@pytest.mark.parametrize(("num_ranks", "dtype"), [(2, "fp32"), (2, "bf16"), (3, "fp32")])
def test_ranks_on_a_gpu_answer_what_one_answers(
    in_group,
    config: ModelConfig,
    build_network: Callable[..., VLMoE],
    saved: Callable[..., Path],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
    num_ranks: int,
    dtype: str,
) -> None:
    config = dataclasses.replace(config, top_k=2, moe_blocks=(0, 1))
    path = saved(state=build_network(config).state_dict(), config=config)
    jobs = mixed_jobs(config)
    expected = Runner.load(path, dtype=dtype, device="cuda").run(jobs)

    def work(group: Group) -> list[np.ndarray]:
        runner = Runner.load(
            path,
            dtype=dtype,
            device="cuda",
            group=ThroughHost(group),
            holdings=UNEVEN[num_ranks],
            split=to_the_last_copy,
        )
        return runner.run(jobs[group.rank :: num_ranks - 1] if group.rank < num_ranks - 1 else [])

    # kernels are compiled in the first run
    results = in_group(num_ranks, work, 300.0)
    tolerance = 1e-4 if dtype == "fp32" else 5e-2
    for rank, outputs in enumerate(results[:-1]):
        for answer, whole in zip(outputs, expected[rank :: num_ranks - 1], strict=True):
            np.testing.assert_allclose(answer, whole, atol=tolerance * max(1.0, np.abs(whole).max()))


@pytest.mark.gpu
def test_one_rank_through_nccl_answers_what_one_without_it_answers(
    config: ModelConfig,
    build_network: Callable[..., VLMoE],
    saved: Callable[..., Path],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
) -> None:
    config = dataclasses.replace(config, top_k=2, moe_blocks=(0, 1))
    path = saved(state=build_network(config).state_dict(), config=config)
    jobs = mixed_jobs(config)
    expected = Runner.load(path, dtype="fp32", device="cuda").run(jobs)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    dist.init_process_group("nccl", f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        answers = Runner.load(path, dtype="fp32", device="cuda", group=DistributedGroup()).run(jobs)
    finally:
        dist.destroy_process_group()
    for answer, whole in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, whole, atol=1e-4 * max(1.0, np.abs(whole).max()))


def test_a_rank_holds_its_share_of_the_experts_only(
    in_group, config: ModelConfig, build_network: Callable[..., VLMoE]
) -> None:
    holdings = Holdings({1: placed(([1], [0, 1, 2, 3]), ([0, 1, 2, 3], []))})

    def work(group: Group) -> dict[str, list[int]]:
        network = build_network(config)
        before = {name: p.detach() for name, p in network.named_parameters() if name.endswith("w1")}
        network.share_experts(group, holdings, nearest_copy)
        assert torch.equal(
            network.get_parameter("encoder.blocks.1.ffn.pools.V.w1"),
            before["encoder.blocks.1.ffn.pools.V.w1"][list(holdings.layers[1][group.rank][0])],
        )
        return {name: p.shape[0] for name, p in network.named_parameters() if name.endswith("w1")}

    first, second = in_group(2, work)
    assert first["encoder.blocks.1.ffn.pools.V.w1"] == 1
    assert first["encoder.blocks.1.ffn.pools.T.w1"] == 4
    assert second["encoder.blocks.1.ffn.pools.T.w1"] == 0
    assert second["encoder.blocks.1.ffn.pools.VL.w1"] == 1
    assert second["encoder.blocks.0.ffn.pools.T.w1"] == 1
