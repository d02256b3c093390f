"""A GEMM for one group by each tile of the ladder, beside torch's, and whether the tiles have the same bits.

    python kernels/bench/ladder.py [--rows 16 40 209 788 1672 6688]

Shapes are those of a base model in bf16. Each call has other weights, as the blocks of a network do, and all calls are
one CUDA graph, so that no launch is measured. Microseconds a call, median of replays.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_kernels.triton.gemm import empty_rows, grouped_gemm
from vlmoe_kernels.triton.tiles import LADDERS, Tile, architecture

# together larger than the second-level cache
WEIGHTS = 12
REPEATS = 7
# output and input width, and whether GELU follows
SHAPES = ((2304, 768, False), (768, 768, False), (3072, 768, True), (768, 3072, False))


def median_us(call: Callable[[int], Tensor]) -> float:
    """Of one of the calls 0 .. WEIGHTS - 1."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call(0)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(WEIGHTS):
            call(number)
    graph.replay()
    times = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(1000 * start.elapsed_time(end) / WEIGHTS)
    return statistics.median(times)


def measure(out_dim: int, in_dim: int, gelu: bool, rows: list[int], ladder: tuple[Tile, ...]) -> None:
    """One shape of weights."""
    weights = [
        (torch.randn(1, out_dim, in_dim, device="cuda") * in_dim**-0.5).bfloat16() for _ in range(WEIGHTS)
    ]
    bias = torch.randn(1, out_dim, device="cuda").bfloat16()
    inputs = [torch.randn(num, in_dim, device="cuda").bfloat16() for num in rows]

    def ours(x: Tensor, tile: Tile, number: int) -> Tensor:
        return grouped_gemm(x, weights[number], bias, tile, out=empty_rows(x, len(x), out_dim), gelu=gelu)

    def torchs(x: Tensor, number: int) -> Tensor:
        y = F.linear(x, weights[number][0], bias[0])
        return F.gelu(y) if gelu else y

    print(f"{out_dim} x {in_dim}{', GELU' if gelu else ''}; us at {rows} rows")
    print(f"  {'torch':24}", *(f"{median_us(lambda n, x=x: torchs(x, n)):8.1f}" for x in inputs))
    expected = [ours(x, ladder[0], 0) for x in inputs]
    for tile in ladder:
        same = all(torch.equal(ours(x, tile, 0), first) for x, first in zip(inputs, expected, strict=True))
        times = [f"{median_us(lambda n, x=x, t=tile: ours(x, t, n)):8.1f}" for x in inputs]
        print(f"  {tuple(tile)!s:24}", *times, "same bits" if same else "OTHER BITS", flush=True)


@torch.inference_mode()
def main() -> None:
    """Print a line a tile and shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 40, 209, 788, 1672, 6688])
    rows = parser.parse_args().rows
    ladder = LADDERS.get((architecture(torch.device("cuda")), 2))
    if ladder is None:
        raise SystemExit("this device has no ladder of tiles")
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16")
    for shape in SHAPES:
        measure(*shape, rows, ladder)


if __name__ == "__main__":
    main()
