"""How much of an output one program computes: a table by device and shape of the weights.

`DEFAULTS` has a row per architecture and width of the numbers. `kernels/bench/tune_triton.py` measures better ones on
a device and writes them to `tiles/DEVICE.json`, which is read here. Another tile may round differently, so the bits
of an answer belong to a device and its table. The number of rows may choose among the tiles of a ladder alone: it
stands in `LADDERS` where a test on that device has shown their bits to be the same.
"""

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

# contraction of products and sums into one rounding; given explicitly, because the default changes with Triton 3.10
FP_FUSION = True

TABLES = Path(__file__).with_name("tiles")


class Tile(NamedTuple):
    """Part of a GEMM's output per program, the step along K, warps, and steps of K in flight."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


class AttentionTile(NamedTuple):
    """Queries per program, keys per step, warps, and steps in flight."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


# (architecture, bytes of a number). sm_80 also serves the consumer cards of its family and sm_120, which have 99 KB
# of shared memory; from 64 rows on sm_90 multiplies by warp groups (WGMMA).
DEFAULTS: Mapping[tuple[str, int], Tile] = {
    ("sm_80", 2): Tile(64, 128, 32, 4, 4),
    ("sm_80", 4): Tile(64, 64, 32, 4, 3),
    ("sm_90", 2): Tile(64, 128, 64, 4, 4),
    ("sm_90", 4): Tile(64, 64, 32, 4, 3),
    ("gfx942", 2): Tile(64, 128, 64, 4, 2),
    ("gfx942", 4): Tile(64, 64, 32, 4, 2),
    # small, so that small tests have several
    ("interpreter", 2): Tile(16, 64, 32, 4, 1),
    ("interpreter", 4): Tile(16, 64, 32, 4, 1),
}

ATTENTION: Mapping[tuple[str, int], AttentionTile] = {
    ("sm_80", 2): AttentionTile(64, 64, 4, 3),
    ("sm_80", 4): AttentionTile(32, 32, 4, 2),
    ("sm_90", 2): AttentionTile(64, 64, 4, 3),
    ("sm_90", 4): AttentionTile(32, 32, 4, 2),
    ("gfx942", 2): AttentionTile(64, 64, 4, 1),
    ("gfx942", 4): AttentionTile(32, 32, 4, 1),
    ("interpreter", 2): AttentionTile(16, 32, 4, 1),
    ("interpreter", 4): AttentionTile(16, 32, 4, 1),
}


# The largest tile first. For a few groups, whose rows and columns may be too few to give every processor a tile.
LADDERS: Mapping[tuple[str, int], tuple[Tile, ...]] = {
    ("sm_90", 2): (Tile(128, 128, 64, 8, 3), Tile(64, 64, 64, 4, 4), Tile(64, 32, 128, 4, 4)),
}
# dense layers: V, T and VL
LADDER_GROUPS = 3


@dataclass(frozen=True, slots=True)
class Tiles:
    """What a GEMM may use: tiles of equal bits, the largest first. num_processors: of the device."""

    ladder: tuple[Tile, ...]
    num_processors: int = 1

    def fitting(self, num_rows: int, out_dim: int) -> Tile:
        """The largest tile of which there are enough to keep nearly every processor busy, or else the smallest."""
        for tile in self.ladder[:-1]:
            programs = -(-num_rows // tile.block_m) * -(-out_dim // tile.block_n)
            if 10 * programs >= 9 * self.num_processors:
                return tile
        return self.ladder[-1]


def gemm_tiles(device: torch.device, dtype: torch.dtype, groups: int, out_dim: int, in_dim: int) -> Tiles:
    """The tiles of a GEMM with these weights on this device: one that was tuned, a ladder, or the default."""
    ladder = LADDERS.get((architecture(device), dtype.itemsize))
    if ladder is None or groups > LADDER_GROUPS or is_tuned(device, dtype, groups, out_dim, in_dim):
        return Tiles((gemm_tile(device, dtype, groups, out_dim, in_dim),))
    return Tiles(ladder, torch.cuda.get_device_properties(device).multi_processor_count)


def is_tuned(device: torch.device, dtype: torch.dtype, groups: int, out_dim: int, in_dim: int) -> bool:
    """Whether the device's own table has a row for these weights."""
    if device.type != "cuda":
        return False
    return _key(dtype, groups, out_dim, in_dim) in _tuned(torch.cuda.get_device_name(device))


def gemm_tile(device: torch.device, dtype: torch.dtype, groups: int, out_dim: int, in_dim: int) -> Tile:
    """The tile of a GEMM with these weights on this device: the tuned one, or the default."""
    if device.type == "cuda":
        row = _tuned(torch.cuda.get_device_name(device)).get(_key(dtype, groups, out_dim, in_dim))
        if row is not None:
            return row
    return DEFAULTS[architecture(device), dtype.itemsize]


def attention_tile(device: torch.device, dtype: torch.dtype, *, biased: bool) -> AttentionTile:
    """The tile of attention on this device. A bias needs the registers of half the keys."""
    tile = ATTENTION[architecture(device), dtype.itemsize]
    return tile._replace(block_n=tile.block_n // 2) if biased else tile


@functools.cache
def architecture(device: torch.device) -> str:
    """The row of the tables that serves this device."""
    if device.type != "cuda":
        return "interpreter"
    if torch.version.hip:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(device)
    return "sm_90" if major in (9, 10) else "sm_80"


def table_path(device_name: str, folder: Path | None = None) -> Path:
    """Where the tuned tiles of a device lie."""
    return (folder or TABLES) / f"{re.sub('[^a-z0-9]+', '-', device_name.lower()).strip('-')}.json"


def write_table(path: Path, rows: Mapping[tuple[torch.dtype, int, int, int], Tile]) -> None:
    """Add rows (dtype, groups, output width, input width) to a device's table."""
    table = json.loads(path.read_text()) if path.exists() else {}
    table |= {_key(*key): tile._asdict() for key, tile in rows.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n")


def read_table(path: Path) -> dict[str, Tile]:
    """The rows of a device's table; none where there is no file.

    Raises:
        ValueError: a row is not a tile.
    """
    if not path.exists():
        return {}
    try:
        rows = json.loads(path.read_text()).items()
        return {key: Tile(**{name: int(row[name]) for name in Tile._fields}) for key, row in rows}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not a table of tiles: {error!r}") from error


@functools.cache
def _tuned(device_name: str) -> Mapping[str, Tile]:
    return read_table(table_path(device_name))


def _key(dtype: torch.dtype, groups: int, out_dim: int, in_dim: int) -> str:
    return f"{str(dtype).removeprefix('torch.')} {groups}x{out_dim}x{in_dim}"
