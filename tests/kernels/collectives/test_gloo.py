import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, torch, torch.distributed as dist
from vlmoe_kernels.collectives import GroupError
from vlmoe_kernels.collectives.gloo import GlooGroup
rank, size, path, ends = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "ends"
group = GlooGroup(dist.FileStore(path, size), rank, size, "127.0.0.1")
assert (group.rank, group.size) == (rank, size)
for dtype in (torch.float32, torch.bfloat16):
    counts = torch.tensor([[(rank + 2 * dst) % 3] for dst in range(size)])
    came = group.exchange_counts(counts)
    assert came.tolist() == [[(src + 2 * rank) % 3] for src in range(size)], came
    send, receive = counts[:, 0].tolist(), came[:, 0].tolist()
    rows = torch.cat([torch.full((n, 4), 10.0 * rank + dst) for dst, n in enumerate(send)]).to(dtype)
    got = group.exchange_rows(rows, send, receive)
    expected = torch.cat([torch.full((n, 4), 10.0 * src + rank) for src, n in enumerate(receive)]).to(dtype)
    assert torch.equal(got, expected), (got, expected)
    order = torch.arange(len(rows)).flip(0)
    assert torch.equal(group.exchange_rows(rows.flip(0), send, receive, order), expected)
    pieces = group.exchange_pieces(rows, send, receive)
    assert [len(piece) for piece in pieces] == [0 if src == rank else n for src, n in enumerate(receive)]
    assert torch.equal(torch.cat(pieces), expected[(expected[:, 0] / 10).floor() != rank])
    assert group.room(3, rows).shape == (3, 4)
none = [0] * size
assert group.exchange_rows(torch.empty(0, 4), none, none).shape == (0, 4)
if ends:
    if rank == size - 1:
        os._exit(0)
    try:
        group.exchange_counts(torch.zeros(size, 1, dtype=torch.int64))
    except GroupError as error:
        assert str(error).startswith(f"rank {rank} lost its group"), error
        os._exit(0)
    os._exit(9)
group.exchange_counts(torch.zeros(size, 1, dtype=torch.int64))
os._exit(0)
"""


@pytest.mark.parametrize(("size", "end"), [(2, "stays"), (3, "ends")])
def test_rows_and_counts_travel_between_processes_and_a_loss_is_an_error(
    tmp_path: Path, size: int, end: str
) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(size), str(tmp_path / "store"), end],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(size)
    ]
    errors = [rank.communicate(timeout=600)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * size, "\n".join(errors)
