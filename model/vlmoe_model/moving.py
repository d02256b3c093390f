"""Experts move between ranks while the model runs, a layer at a time.

    prepare (any thread, as slowly as it likes): read from the checkpoint -> pack -> Prepared
    switch (between two steps, on all ranks): the layer's operation and its shares are replaced

Nothing waits for a preparation, and a switch replaces addresses only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from vlmoe_kernels.ops import GroupedOp
from vlmoe_model.checkpoint.directory import CheckpointDir
from vlmoe_model.checkpoint.one_expert import read_expert
from vlmoe_model.dispatch.holdings import Held
from vlmoe_model.errors import CheckpointError
from vlmoe_model.feed_forward import ExpertKey
from vlmoe_model.runner import Runner


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One layer as it is to be: what each rank holds, and this rank's new experts."""

    block: int
    held: tuple[Held, ...]
    experts: Mapping[ExpertKey, GroupedOp]


class ExpertMover:
    """Of one rank's runner, loaded as movable. Remembers the checkpoint's files as they were."""

    def __init__(self, runner: Runner) -> None:
        assert runner.group is not None
        self._runner = runner
        self._group = runner.group
        self._files = _state_of(runner.directory)

    def prepare(
        self, block: int, held: Sequence[Held], pace: Callable[[int], None] = lambda num_bytes: None
    ) -> Prepared:
        """Get what this rank will need.

        Args:
            block: the mixture.
            held: what each rank is to hold.
            pace: told after each expert how many bytes were read; may wait.

        Raises:
            CheckpointError: the checkpoint cannot be read any more, or is another one by now.
        """
        layer = self._runner.mixture(block)
        experts: dict[ExpertKey, GroupedOp] = {}
        for name, expert in layer.missing(held[self._group.rank]):
            if _state_of(self._runner.directory) != self._files:
                raise CheckpointError(f"{self._runner.directory.path}: the weights were replaced")
            with torch.inference_mode():
                pool, num_bytes = read_expert(self._runner.directory, block, name, expert)
                experts[name, expert] = layer.packed(pool)
            pace(num_bytes)
        return Prepared(block, tuple(held), experts)

    def switch(self, prepared: Prepared) -> None:
        """Hold the layer's experts as prepared from the next step on; on all ranks between the same two steps."""
        self._runner.mixture(prepared.block).rearrange(self._group, prepared.held, prepared.experts)


def _state_of(directory: CheckpointDir) -> dict[str, tuple[int, int, int]]:
    state = {}
    for file in sorted({entry.file for entry in directory.tensors.values()}):
        try:
            stat = file.stat()
        except OSError as error:
            raise CheckpointError(f"{file}: {error.strerror}") from error
        state[str(file)] = stat.st_ino, stat.st_mtime_ns, stat.st_size
    return state
