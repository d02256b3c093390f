"""Exchange through torch.distributed: NCCL between GPUs, gloo between hosts."""

# letters: see __init__.py

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from vlmoe_kernels.collectives import GroupError
from vlmoe_kernels.collectives.copied_rows import CopyingGroup


class DistributedGroup(CopyingGroup):
    """A process group that somebody else has initialised; None is torch's default group."""

    def __init__(self, process_group: dist.ProcessGroup | None = None) -> None:
        super().__init__(dist.get_rank(process_group), dist.get_world_size(process_group))
        self._group = process_group
        self._on_gpu = dist.get_backend(process_group) == "nccl"

    def exchange_counts(self, counts_WG: Tensor) -> Tensor:
        """See `Group.exchange_counts`."""
        return super().exchange_counts(counts_WG.cuda() if self._on_gpu else counts_WG).cpu()

    def all_to_all(self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """See `CopyingGroup.all_to_all`."""
        received = rows_RD.new_empty(sum(receive), *rows_RD.shape[1:])
        try:
            dist.all_to_all_single(received, rows_RD, list(receive), list(send), group=self._group)
        except (RuntimeError, dist.DistBackendError) as error:
            raise GroupError(f"rank {self.rank} lost its group: {error}") from error
        return received
