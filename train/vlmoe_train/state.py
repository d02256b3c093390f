"""The state of an unfinished run: weights, moments and the step, as safetensors. Nothing else is needed.

Rows, augmentation and noise are functions of (seed, step), so a resumed run goes on bit for bit.
"""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FILE = "train_state.safetensors"


class StateError(ValueError):
    """A training state that cannot be resumed: one line."""


def save_state(directory: Path, modules: nn.ModuleDict, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write atomically: a reader sees the old state or the new one."""
    tensors: dict[str, Tensor] = {"step": torch.tensor(step)}
    for name, parameter in modules.named_parameters():
        tensors[f"weight/{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = value
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{FILE}.partial"
    save_file({name: t.contiguous() for name, t in tensors.items()}, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(directory / FILE)


def load_state(directory: Path, modules: nn.ModuleDict, optimizer: torch.optim.Optimizer) -> int:
    """Restore and return the number of finished steps.

    Raises:
        StateError: there is no state, or it belongs to another recipe.
    """
    path = directory / FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StateError(f"{path}: cannot be resumed: {error}") from error
    with torch.no_grad():
        for name, parameter in modules.named_parameters():
            weight = tensors.get(f"weight/{name}")
            if weight is None or weight.shape != parameter.shape:
                raise StateError(f"{path}: does not fit this recipe: {name}")
            parameter.copy_(weight)
            suffix = f"/{name}"
            moments = {
                key.split("/")[1]: value
                for key, value in tensors.items()
                if key.startswith("optimizer/")
                and key.removeprefix("optimizer/").partition("/")[2] == suffix[1:]
            }
            if moments:
                optimizer.state[parameter] = dict(moments)
    return int(tensors["step"])
