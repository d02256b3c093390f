"""Find the fastest tiles of the GPU kernels for one layer on this GPU, and write them where the kernels look.

    python kernels/bench/tune_triton.py --dim 768 --hidden 3072 --experts 32 [--dtype bf16] [--out FILE]

A tile serves every number of tokens, or the bits of an answer would depend on its batch. So each is timed at several
numbers, and the one with the smallest product of times wins. Compiling takes most of the time: some minutes a layer.
`TRITON_INTERPRET=1 ... --device cpu` walks through the script without a GPU, at sizes of a few dozens.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from torch import Tensor

from vlmoe_kernels import make_plan
from vlmoe_kernels.triton.gemm import empty_rows, grouped_gemm
from vlmoe_kernels.triton.routes import Routes
from vlmoe_kernels.triton.tiles import DEFAULTS, Tile, architecture, table_path, write_table

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BLOCKS = {"block_m": (16, 32, 64, 128), "block_n": (64, 128, 256), "block_k": (32, 64, 128)}
WARPS_AND_STAGES = ((4, 2), (4, 3), (4, 4), (8, 3), (8, 4))


@dataclass(frozen=True, slots=True)
class Product:
    """One GEMM of a network, and the numbers of groups that take its tile."""

    name: str
    groups: tuple[int, ...]
    out_dim: int
    in_dim: int
    is_up: bool


def products(dim: int, hidden: int, experts: int) -> list[Product]:
    """What the blocks of a network multiply: mixtures and dense layers with and without the VL pool, projections."""
    mixture, dense = (2 * experts + 1, 2 * experts), (3, 2)
    return [
        Product("experts, first", mixture, hidden, dim, True),
        Product("experts, second", mixture, dim, hidden, False),
        Product("dense, first", dense, hidden, dim, True),
        Product("dense, second", dense, dim, hidden, False),
        Product("queries, keys, values", (1,), 3 * dim, dim, False),
        Product("projection", (1,), dim, dim, False),
    ]


def candidates(product: Product, dtype: torch.dtype, shared_memory: int) -> Iterator[Tile]:
    """Tiles whose operands fit in shared memory and that are not larger than the weights."""
    for (m, n, k), (warps, stages) in itertools.product(
        itertools.product(*BLOCKS.values()), WARPS_AND_STAGES
    ):
        fits = (m + n) * k * dtype.itemsize * stages <= shared_memory
        # accumulators within half of the registers
        if fits and m * n <= 128 * 32 * warps and n <= product.out_dim and k <= product.in_dim:
            yield Tile(m, n, k, warps, stages)


def operation(
    product: Product, tokens: int, dtype: torch.dtype, device: torch.device
) -> Callable[[Tile], Tensor]:
    """The GEMM as a layer calls it, on tokens spread evenly over the groups."""
    groups = product.groups[0]
    weight = torch.randn(groups, product.out_dim, product.in_dim, device=device).to(dtype)
    bias = torch.zeros(groups, product.out_dim, dtype=dtype, device=device)
    x = torch.randn(tokens, product.in_dim, device=device).to(dtype)
    out = empty_rows(x, tokens, product.out_dim)
    if groups == 1:
        return lambda tile: grouped_gemm(x, weight, bias, tile, out=out)
    plan = make_plan(torch.arange(tokens, device=device).unsqueeze(1) % groups, None, groups)
    routes, gates = Routes.of(plan, groups), torch.ones(tokens, device=device)
    if product.is_up:
        return lambda tile: grouped_gemm(
            x, weight, bias, tile, out=out, routes=routes, gather=True, gelu=True
        )
    return lambda tile: grouped_gemm(
        x, weight, bias, tile, out=out, routes=routes, scatter=True, gates_R=gates
    )


def milliseconds(op: Callable[[], Tensor], device: torch.device) -> float:
    """Median time; infinite for a tile that this device cannot run."""
    try:
        if device.type == "cuda":
            return float(triton.testing.do_bench(op, return_mode="median"))
        start = time.perf_counter()
        op()
        return 1e3 * (time.perf_counter() - start)
    except (triton.runtime.errors.OutOfResources, triton.compiler.errors.CompilationError):
        return math.inf


def main() -> None:
    """Print a line a GEMM and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--experts", type=int, required=True, help="experts of one pool")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bf16")
    parser.add_argument("--tokens", type=int, nargs="+", default=[40, 197, 1576, 6304])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--max-tiles", type=int, help="try no more than this many for each GEMM")
    parser.add_argument("--out", type=Path, help="table to add to; default: the one that the kernels read")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    name, shared_memory = "interpreter", 1 << 16
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name = properties.name
        shared_memory = getattr(properties, "shared_memory_per_block_optin", shared_memory)
    path = options.out or table_path(name)
    print(
        f"{name}, torch {torch.__version__}, triton {triton.__version__}, {options.dtype};",
        f"ms at {options.tokens} tokens",
    )
    rows = {}
    for product in products(options.dim, options.hidden, options.experts):
        ops = [operation(product, tokens, dtype, device) for tokens in options.tokens]

        def times(tile: Tile, ops: list[Callable[[Tile], Tensor]] = ops) -> list[float]:
            return [milliseconds(lambda op=op: op(tile), device) for op in ops]

        default = DEFAULTS[architecture(device), dtype.itemsize]
        tried = {default: times(default)}
        for tile in itertools.islice(candidates(product, dtype, shared_memory), options.max_tiles):
            if tile not in tried:
                tried[tile] = times(tile)
        best = min(tried, key=lambda tile: math.prod(tried[tile]))
        rows |= {(dtype, groups, product.out_dim, product.in_dim): best for groups in product.groups}
        before, after = (", ".join(f"{ms:.3f}" for ms in tried[tile]) for tile in (default, best))
        print(f"{product.name}: {len(tried)} tiles; default {before}; best {after} with {best}", flush=True)
    write_table(path, rows)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
