import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from vlmoe_kernels.collectives.distributed import DistributedGroup

PROGRAM = """
import sys, torch, torch.distributed as dist
from vlmoe_kernels.collectives.distributed import DistributedGroup
rank, size, meeting = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=size)
group = DistributedGroup()
assert (group.rank, group.size) == (rank, size)
counts = torch.tensor([[(rank + 2 * dst) % 3] for dst in range(size)])
came = group.exchange_counts(counts)
assert came.tolist() == [[(src + 2 * rank) % 3] for src in range(size)], came
send, receive = counts[:, 0].tolist(), came[:, 0].tolist()
rows = torch.cat([torch.full((n, 4), 10.0 * rank + dst) for dst, n in enumerate(send)]).bfloat16()
got = group.exchange_rows(rows, send, receive)
expected = torch.cat([torch.full((n, 4), 10.0 * src + rank) for src, n in enumerate(receive)]).bfloat16()
assert torch.equal(got, expected), (got, expected)
order = torch.arange(len(rows)).flip(0)
assert torch.equal(group.exchange_rows(rows.flip(0), send, receive, order), expected)
pieces = group.exchange_pieces(rows, send, receive)
assert [len(piece) for piece in pieces] == [0 if src == rank else n for src, n in enumerate(receive)]
assert torch.equal(torch.cat(pieces), expected[(expected[:, 0] / 10).floor() != rank])
assert group.room(3, rows).shape == (3, 4)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize("size", [2])
def test_rows_and_counts_travel_between_processes(tmp_path: Path, size: int) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(size), str(tmp_path / "meeting")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    errors = [rank.communicate(timeout=600)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * size, "\n".join(errors)


@pytest.mark.gpu
def test_rows_and_counts_travel_through_nccl_to_oneself(tmp_path: Path) -> None:
    """One card: what a layer asks of NCCL, but for the way to another one."""
    dist.init_process_group("nccl", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        group = DistributedGroup()
        assert group.exchange_counts(torch.tensor([[3, 4]])).tolist() == [[3, 4]]
        rows = torch.randn(7, 16, device="cuda", dtype=torch.bfloat16)
        assert torch.equal(group.exchange_rows(rows, [7], [7]), rows)
        order = torch.arange(6, -1, -1, device="cuda")
        assert torch.equal(group.exchange_rows(rows, [7], [7], order), rows.flip(0))
        assert len(group.exchange_rows(rows[:0], [0], [0])) == 0
        (piece,) = group.exchange_pieces(rows, [7], [7])
        assert len(piece) == 0
    finally:
        dist.destroy_process_group()
