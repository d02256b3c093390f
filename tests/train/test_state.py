from pathlib import Path

import pytest
import torch
from torch import nn

from vlmoe_train.state import FILE, StateError, load_state, save_state


def stepped(width: int = 3) -> tuple[nn.ModuleDict, torch.optim.AdamW]:
    torch.manual_seed(0)
    modules = nn.ModuleDict({"net": nn.Linear(width, 2)})
    optimizer = torch.optim.AdamW(modules.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        modules["net"](torch.randn(4, width)).square().sum().backward()
        optimizer.step()
    return modules, optimizer


def test_weights_moments_and_step_come_back(tmp_path: Path):
    modules, optimizer = stepped()
    save_state(tmp_path, modules, optimizer, 3)
    other = nn.ModuleDict({"net": nn.Linear(3, 2)})
    restored = torch.optim.AdamW(other.parameters(), lr=0.1, fused=True)
    assert load_state(tmp_path, other, restored) == 3
    for a, b in zip(modules.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        for key, value in optimizer.state[a].items():
            assert torch.equal(value, restored.state[b][key]), key


def test_nothing_there_another_shape_and_a_broken_file_are_one_line_each(tmp_path: Path):
    modules, optimizer = stepped()
    with pytest.raises(StateError, match="cannot be resumed"):
        load_state(tmp_path, modules, optimizer)
    save_state(tmp_path, modules, optimizer, 3)
    wider = nn.ModuleDict({"net": nn.Linear(5, 2)})
    with pytest.raises(StateError, match=r"does not fit this recipe: net\.weight"):
        load_state(tmp_path, wider, torch.optim.AdamW(wider.parameters()))
    (tmp_path / FILE).write_bytes(b"no tensors here")
    with pytest.raises(StateError, match="cannot be resumed"):
        load_state(tmp_path, modules, optimizer)


def test_an_interrupted_write_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    modules, optimizer = stepped()
    save_state(tmp_path, modules, optimizer, 3)

    def full_disk(path: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_state(tmp_path, modules, optimizer, 4)
    assert load_state(tmp_path, modules, optimizer) == 3
