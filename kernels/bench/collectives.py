"""Exchange of routed rows between two processes: shared memory beside gloo, interleaved.

    .venv/bin/python kernels/bench/collectives.py [--rows 40 197 1576] [--width 768]

Half of each rank's rows go to the other one, as in a mixture's layer with balanced experts. Prints medians in
milliseconds of dispatch and return: counts, rows there, rows back.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import asdict

import torch
import torch.distributed as dist

from vlmoe_kernels.collectives import Group
from vlmoe_kernels.collectives.distributed import DistributedGroup
from vlmoe_kernels.collectives.shared_memory import (
    Descriptors,
    SharedMemoryGroup,
    close_descriptors,
    make_descriptors,
)

REPEATS = 200


def once(group: Group, rows: torch.Tensor) -> float:
    """Seconds of one layer's exchanges."""
    half = len(rows) // 2
    send = [half, len(rows) - half]
    group.exchange_counts(torch.zeros(2, 1, dtype=torch.int64))
    start_s = time.perf_counter()
    came = group.exchange_counts(torch.tensor(send).view(2, 1))[:, 0].tolist()
    received = group.exchange_rows(rows, send, came)
    group.exchange_rows(received, came, send)
    return time.perf_counter() - start_s


def rank_main(rank: int, port: int, descriptors: Descriptors, sizes: list[int], width: int) -> None:
    """One of the two processes; rank 0 prints."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    groups: dict[str, Group] = {"shared memory": SharedMemoryGroup(descriptors), "gloo": DistributedGroup()}
    for num_rows in sizes:
        for dtype in (torch.float32, torch.bfloat16):
            rows = torch.randn(num_rows // 2, width).to(dtype)
            ms: dict[str, list[float]] = {name: [] for name in groups}
            for _ in range(REPEATS):
                for name, group in groups.items():
                    ms[name].append(1000 * once(group, rows))
            if rank == 0:
                medians = ", ".join(f"{name} {statistics.median(times):.3f} ms" for name, times in ms.items())
                print(f"{num_rows} rows of {width} over two ranks, {dtype}: {medians}", flush=True)
    dist.destroy_process_group()


def main() -> None:
    """Start the second rank, be the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[40, 197, 1576, 6304])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        port, text = args.rank
        fields = {
            name: tuple(map(_tupled, value)) if isinstance(value, list) else value
            for name, value in json.loads(text).items()
        }
        rank_main(1, int(port), Descriptors(**fields), args.rows, args.width)
        return
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    first, second = make_descriptors(2)
    other = subprocess.Popen(
        [sys.executable, *sys.argv, "--rank", str(port), json.dumps(asdict(second))], pass_fds=second.all
    )
    rank_main(0, port, first, args.rows, args.width)
    other.wait()
    close_descriptors([first, second])


def _tupled(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    main()
