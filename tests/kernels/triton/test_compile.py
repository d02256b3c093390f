"""Every tile that is shipped, compiled for GPUs that are not here: no spills, within shared memory, on tensor cores."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vlmoe_kernels.triton import flash, gate, gemm, norms, places, rows, tiles, training

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# bytes; the row of sm_80 also serves sm_86, sm_89 and sm_120
SHARED_MEMORY = {"sm_80": 99 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
# a base model (2 x 32 experts and the VL layer), and the demo's heads
NUM_GROUPS = 65
HEAD_WIDTHS = (32, 64)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

# strides and widths of our layouts are multiples of 16 numbers
ALIGNED = ("N", "K", "D", "C", "width")
PLAIN = {"num_rows": "i32", "num_tiles": "i32", "num_tokens": "i32", "scale": "fp32", "eps": "fp32"}
INDICES = {
    "order_ptr": "*i64",
    "slots_ptr": "*i64",
    "tiles_ptr": "*i64",
    "pool_of_token_ptr": "*i64",
    "load_ptr": "*i64",
    "offsets_ptr": "*i32",
    "starts_ptr": "*i32",
    "groups_ptr": "*i32",
    "limits_ptr": "*i32",
    "kept_ptr": "*i32",
    "counts_ptr": "*i32",
    "before_ptr": "*i32",
    "gates_ptr": "*fp32",
    "gates_out_ptr": "*fp32",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel as it is launched."""

    kernel: Any
    constants: dict[str, Any]
    num_warps: int
    num_stages: int
    on_tensor_cores: bool = False


def gemm_case(tile: tiles.Tile, number: int, **flags: bool) -> Case:
    constants = dict.fromkeys(("GATHER", "SCATTER", "GELU", "GATED"), False)
    constants |= {"ROUTED": True, "BIASED": True, "EVEN_K": True} | flags
    blocks = {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k}
    groups = {"NUM_GROUPS": NUM_GROUPS, "BLOCK_G": gemm.block_of(NUM_GROUPS), "SWIZZLE": gemm.SWIZZLE}
    return Case(gemm.gemm_kernel, constants | blocks | groups, tile.num_warps, tile.num_stages, number == 2)


def attention_case(tile: tiles.AttentionTile, number: int, width: int, biased: bool) -> Case:
    if biased:
        tile = tile._replace(block_n=tile.block_n // 2)
    constants = {"LOG2_E": flash.LOG2_E, "BIASED": biased, "BLOCK_C": width}
    constants |= {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n}
    return Case(flash.attention_kernel, constants, tile.num_warps, tile.num_stages, number == 2)


def routing_cases(num_groups: int) -> Iterator[tuple[str, Case]]:
    block_g = max(16, triton.next_power_of_2(num_groups))
    # as if all groups were of one pool
    block_d, num_warps, num_stages = gate.gate_shape(block_g)
    groups = {"NUM_GROUPS": num_groups, "BLOCK_G": block_g}
    tokens = groups | {"TOP_K": 2, "BLOCK_T": gate.BLOCK_T}
    scores = {"NUM_GROUPS": num_groups, "BLOCK_E": block_g, "TOP_K": 2, "BLOCK_T": gate.BLOCK_T}
    scores |= {"COUNT": True, "BLOCK_D": block_d}
    yield f"gate {num_groups}", Case(gate.gate_kernel, scores, num_warps, num_stages)
    yield f"claim {num_groups}", Case(gate.claim_kernel, tokens | {"BY_SCORE": True}, num_warps, 1)
    yield (
        f"scan {num_groups}",
        Case(
            places.scan_kernel,
            groups | {"NUM_ROUTED": num_groups - 1, "BLOCK_TILES": places.BLOCK_TILES},
            num_warps,
            1,
        ),
    )
    yield f"place {num_groups}", Case(places.place_kernel, tokens, num_warps, 1)


def cases(architecture: str, dtype: str) -> dict[str, Case]:
    number = BYTES[dtype]
    tile, attention = tiles.DEFAULTS[architecture, number], tiles.ATTENTION[architecture, number]
    groups = {"NUM_GROUPS": NUM_GROUPS, "BLOCK_G": gemm.block_of(NUM_GROUPS)}
    found = {
        "up": gemm_case(tile, number, GATHER=True, GELU=True),
        "down": gemm_case(tile, number, SCATTER=True, GATED=True),
        "down to slots": gemm_case(tile, number, GATED=True),
        "linear": gemm_case(tile, number, ROUTED=False),
        "linear of an odd width": gemm_case(tile, number, ROUTED=False, EVEN_K=False, BIASED=False),
        "grouped linear": gemm_case(tile, number, GATHER=True, SCATTER=True),
        "norm": Case(rows.norm_kernel, groups | {"BLOCK": 4096}, 4, 1),
        "combine": Case(rows.combine_kernel, {"TOP_K": 2, "BLOCK": 1024}, 4, 1),
    }
    for step, each in enumerate(tiles.LADDERS.get((architecture, number), ())):
        found[f"linear, step {step}"] = gemm_case(each, number, ROUTED=False)
        found[f"up, step {step}"] = gemm_case(each, number, GATHER=True, GELU=True)
    for name, flags in (("add and norm", True), ("norm of the first block", False)):
        constants = dict.fromkeys(("ADDED", "GROUPED", "EXACT"), flags) | {"BLOCK": 1024}
        found[name] = Case(norms.add_norm_kernel, constants, 4, 1)
    blocks = {"BLOCK_N": tile.block_m, "BLOCK_K": tile.block_n, "BLOCK_R": tile.block_k}
    found["weight gradient"] = Case(
        training.weight_gradient_kernel, blocks, tile.num_warps, tile.num_stages, number == 2
    )
    for width, biased in product(HEAD_WIDTHS, (False, True)):
        name = f"attention {width}{' biased' if biased else ''}"
        found[name] = attention_case(attention, number, width, biased)
    if dtype == "fp32":
        for num_groups in (9, 32, NUM_GROUPS, 257):
            found |= dict(routing_cases(num_groups))
    return found


# what a base model in bf16 runs, one of each
QUICK = {("bf16", "up"), ("bf16", "down"), ("bf16", "attention 64"), ("fp32", f"gate {NUM_GROUPS}")}
EVERY = [
    pytest.param(a, d, name, marks=() if (d, name) in QUICK else pytest.mark.slow, id=f"{a}-{d}-{name}")
    for a, d in product(TARGETS, BYTES)
    for name in cases(a, d)
]


def compiled(case: Case, architecture: str, dtype: str) -> Any:
    def kind(name: str) -> str:
        if name in case.constants:
            return "constexpr"
        return PLAIN.get(name) or INDICES.get(name) or (f"*{dtype}" if name.endswith("_ptr") else "i32")

    names = case.kernel.arg_names
    aligned = [
        index
        for index, name in enumerate(names)
        if name not in case.constants
        and (name in ALIGNED or name.startswith("stride") or name.endswith("_ptr"))
    ]
    source = ASTSource(
        fn=case.kernel,
        signature={name: kind(name) for name in names},
        constexprs=case.constants,
        attrs={(index,): [["tt.divisibility", 16]] for index in aligned},
    )
    options = {
        "num_warps": case.num_warps,
        "num_stages": case.num_stages,
        "enable_fp_fusion": tiles.FP_FUSION,
    }
    return triton.compile(source, target=TARGETS[architecture], options=options)


def spilled(kernel: Any, folder: Path) -> int:
    """Bytes (NVIDIA) or registers (AMD) that did not fit."""
    if "amdgcn" in kernel.asm:
        return sum(int(n) for n in re.findall(r"\.[vs]gpr_spill_count:\s+(\d+)", kernel.asm["amdgcn"]))
    (folder / "kernel.cubin").write_bytes(kernel.asm["cubin"])
    command = [CUOBJDUMP, "-res-usage", folder / "kernel.cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"REG:\d+ STACK:(\d+)", said.stdout + said.stderr)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize(("architecture", "dtype", "name"), EVERY)
def test_a_kernel_fits_its_device(architecture: str, dtype: str, name: str, tmp_path: Path) -> None:
    case = cases(architecture, dtype)[name]
    kernel = compiled(case, architecture, dtype)
    assert spilled(kernel, tmp_path) == 0
    assert kernel.metadata.shared <= SHARED_MEMORY[architecture]
    if case.on_tensor_cores:
        text, instruction = {
            "sm_80": ("ptx", "mma.sync"),
            "sm_90": ("ptx", "wgmma.mma_async"),
            "gfx942": ("amdgcn", "v_mfma"),
        }[architecture]
        assert instruction in kernel.asm[text]


def test_a_tile_that_is_too_large_is_noticed(tmp_path: Path) -> None:
    kernel = compiled(gemm_case(tiles.Tile(128, 256, 64, 4, 4), 2), "sm_80", "bf16")
    assert spilled(kernel, tmp_path) > 0
    assert kernel.metadata.shared > SHARED_MEMORY["sm_80"]
