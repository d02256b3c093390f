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

from vlmoe_kernels import Pool, backend, make_plan
from vlmoe_kernels.choice import choose_backend
from vlmoe_kernels.collectives import Group
from vlmoe_kernels.collectives.distributed import DistributedGroup
from vlmoe_model.config import ModelConfig
from vlmoe_model.dispatch.expert_parallel import ExpertParallel, Split, nearest_copy, shares_of
from vlmoe_model.dispatch.holdings import Holdings
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.runner import Runner

# pools of a layer: four experts for each modality, and one layer for pairs
SIZES, ROUTED = (4, 4, 1), (True, True, False)
NUM_GROUPS = sum(SIZES)
CPU = choose_backend("auto", "cpu")


def pool(num_experts: int, seed: int) -> Pool:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((16, 8), (16,), (8, 16), (8,))
    return Pool(*(torch.randn(num_experts, *shape, generator=generator) for shape in shapes))


def plan_of(num_tokens: int, top_k: int, seed: int):
    """Random choices: dropped ones, and (where there are two) pairs with one choice only."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(-1, NUM_GROUPS, (num_tokens, top_k), generator=generator)
    gates = torch.rand(num_tokens, top_k, generator=generator)
    return make_plan(groups, gates, NUM_GROUPS)


# experts of each rank: V, then T
EVEN = {
    1: [([0, 1, 2, 3], [0, 1, 2, 3])],
    2: [([0, 1], [0, 1]), ([2, 3], [2, 3])],
    4: [([0], [0]), ([1], [1]), ([2], [2]), ([3], [3])],
}
COPIES = {
    1: EVEN[1],
    2: [([0, 1, 3], [0, 1, 2, 3]), ([1, 2], [3])],
    # the last but one holds nothing
    4: [([0, 1, 2, 3], []), ([1], [0, 1, 3]), ([], []), ([0, 1, 3], [0, 2, 3])],
}


def to_the_last_copy(counts_XW: np.ndarray, hosts_XW: np.ndarray) -> np.ndarray:
    """Halves to the first copy, the rest to the last."""
    num_ranks = hosts_XW.shape[1]
    first_X, last_X = hosts_XW.argmax(axis=1), num_ranks - 1 - hosts_XW[:, ::-1].argmax(axis=1)
    flow = np.zeros((*counts_XW.shape, num_ranks), np.int64)
    for group, counts_W in enumerate(counts_XW):
        flow[group, :, first_X[group]] += counts_W // 2
        flow[group, :, last_X[group]] += counts_W - counts_W // 2
    return flow


def test_groups_from_the_experts_of_every_rank() -> None:
    shares = shares_of(SIZES, ROUTED, COPIES[2])
    assert shares.by_rank == ((0, 1, 3, 4, 5, 6, 7), (1, 2, 7))
    assert shares.here == (8,)
    assert shares.routed == list(range(8))
    assert shares.hosts_XW().sum(axis=1).tolist() == [1, 2, 1, 1, 1, 1, 1, 2]


def test_the_nearest_copy_is_at_home_or_the_first() -> None:
    hosts = np.array([[False, True, True], [True, False, False]])
    flow = nearest_copy(np.array([[5, 6, 7], [1, 2, 0]]), hosts)
    assert flow[0].tolist() == [[0, 5, 0], [0, 6, 0], [0, 0, 7]]
    assert flow[1].tolist() == [[1, 0, 0], [2, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted({"cpu", CPU}))
@pytest.mark.parametrize(
    ("held", "split"),
    [(EVEN, nearest_copy), (COPIES, nearest_copy), (COPIES, to_the_last_copy)],
    ids=["even", "nearest", "halves"],
)
def test_ranks_together_have_the_bits_of_one(
    in_group, num_ranks: int, top_k: int, dtype: torch.dtype, name: str, held: dict, split: Split
) -> None:
    """Ranks with many tokens, with few, and with none; the fallback, and what this machine runs."""
    pools = [Pool._make(t if t is None else t.to(dtype) for t in pool(n, n + i)) for i, n in enumerate(SIZES)]
    whole = backend(name).grouped_ffn(pools, 1e-6)
    tokens = [torch.randn(n, 8, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (23, 1, 0, 7)]

    def work(group: Group) -> bool:
        mine = [
            Pool._make(t if t is None else t[list(kept)] for t in of_all)
            for of_all, kept in zip(pools, (*held[num_ranks][group.rank], [0]), strict=True)
        ]
        experts = backend(name).grouped_ffn([one for one in mine if len(one.w1)], 1e-6)
        seen = []
        dispatch = ExpertParallel(group, shares_of(SIZES, ROUTED, held[num_ranks]), split)
        dispatch.observe = lambda counts, flow: seen.append((counts.copy(), flow))
        x_TD = tokens[group.rank]
        same = []
        for seed in range(3):
            plan = plan_of(len(x_TD), top_k, seed + 10 * group.rank)
            same.append(torch.equal(dispatch(x_TD, plan, experts), whole(x_TD, plan)))
            counts, flow = seen[-1]
            assert counts[:, group.rank].tolist() == list(plan.sizes[:8])
            assert np.array_equal(flow.sum(axis=2), counts)
        return all(same)

    assert in_group(num_ranks, work) == [True] * num_ranks


def test_shares_change_between_two_steps(in_group) -> None:
    """The same tokens, after the ranks have changed what they hold."""
    pools = [pool(n, n + i) for i, n in enumerate(SIZES)]
    whole = backend(CPU).grouped_ffn(pools, 1e-6)

    def work(group: Group) -> bool:
        x_TD, plan = torch.randn(9, 8), plan_of(9, 2, group.rank)
        dispatch = ExpertParallel(group, shares_of(SIZES, ROUTED, EVEN[2]))
        same = []
        for held in (EVEN[2], COPIES[2]):
            dispatch.take(shares_of(SIZES, ROUTED, held))
            mine = [
                Pool._make(t if t is None else t[list(kept)] for t in of_all)
                for of_all, kept in zip(pools, (*held[group.rank], [0]), strict=True)
            ]
            experts = backend(CPU).grouped_ffn(mine, 1e-6)
            same.append(torch.equal(dispatch(x_TD, plan, experts), whole(x_TD, plan)))
        return all(same)

    assert in_group(2, work) == [True, True]


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
