"""The table of tiles: defaults for every device, and what the tuner wrote."""

from itertools import product
from pathlib import Path

import pytest
import torch

from vlmoe_kernels.triton import tiles
from vlmoe_kernels.triton.tiles import DEFAULTS, Tile

CPU = torch.device("cpu")


def test_every_architecture_has_a_row_for_every_width() -> None:
    rows = set(product(("sm_80", "sm_90", "gfx942", "interpreter"), (2, 4)))
    assert set(tiles.DEFAULTS) == set(tiles.ATTENTION) == rows


def test_tiles_do_not_know_the_number_of_rows() -> None:
    assert tiles.gemm_tile(CPU, torch.float32, 8, 64, 32) == DEFAULTS["interpreter", 4]
    assert tiles.gemm_tiles(CPU, torch.float32, 1, 64, 32).ladder == (DEFAULTS["interpreter", 4],)
    assert tiles.attention_tile(CPU, torch.float16, biased=False) == tiles.ATTENTION["interpreter", 2]


@pytest.mark.parametrize(
    ("capability", "hip", "row"),
    [
        ((8, 0), None, "sm_80"),
        ((8, 9), None, "sm_80"),
        ((9, 0), None, "sm_90"),
        ((10, 0), None, "sm_90"),
        ((12, 0), None, "sm_80"),
        ((9, 4), "7.0", "gfx942"),
    ],
)
def test_devices_map_to_rows(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None, row: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    tiles.architecture.cache_clear()
    assert tiles.architecture(torch.device("cuda", 0)) == row
    tiles.architecture.cache_clear()


def test_a_written_table_is_read_and_added_to(tmp_path: Path) -> None:
    path = tiles.table_path("NVIDIA H100 80GB HBM3", tmp_path)
    assert path.name == "nvidia-h100-80gb-hbm3.json"
    assert tiles.read_table(path) == {}
    up, down = Tile(64, 256, 64, 8, 3), Tile(128, 128, 64, 8, 3)
    tiles.write_table(path, {(torch.bfloat16, 65, 3072, 768): up})
    tiles.write_table(path, {(torch.bfloat16, 65, 768, 3072): down})
    assert tiles.read_table(path) == {"bfloat16 65x3072x768": up, "bfloat16 65x768x3072": down}


def test_a_tuned_row_is_taken_and_others_keep_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = Tile(128, 128, 64, 8, 3)
    tiles.write_table(tiles.table_path("a card", tmp_path), {(torch.bfloat16, 65, 3072, 768): tuned})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(tiles, "architecture", lambda device: "sm_90")
    monkeypatch.setattr(tiles, "TABLES", tmp_path)
    tiles._tuned.cache_clear()
    device = torch.device("cuda", 0)
    assert tiles.gemm_tile(device, torch.bfloat16, 65, 3072, 768) == tuned
    assert tiles.gemm_tile(device, torch.bfloat16, 65, 768, 3072) == DEFAULTS["sm_90", 2]
    assert tiles.gemm_tiles(device, torch.bfloat16, 65, 3072, 768).ladder == (tuned,)
    assert tiles.gemm_tiles(device, torch.bfloat16, 65, 768, 3072).ladder == (DEFAULTS["sm_90", 2],)
    tiles._tuned.cache_clear()


@pytest.mark.parametrize("text", ["[]", "{", '{"bfloat16 1x2x3": {"block_m": 64}}', '{"a": 1}'])
def test_a_broken_table_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "card.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"card\.json is not a table of tiles"):
        tiles.read_table(path)


def test_of_a_ladder_the_largest_tile_that_keeps_the_processors_busy() -> None:
    large, middle, small = ladder = tiles.LADDERS["sm_90", 2]
    of_h100 = tiles.Tiles(ladder, 132)
    assert [of_h100.fitting(rows, 2304) for rows in (1, 40, 209, 788, 6688)] == [
        *(small, small, middle, large, large)
    ]
    assert [of_h100.fitting(rows, 768) for rows in (209, 1672, 6688)] == [small, middle, large]
