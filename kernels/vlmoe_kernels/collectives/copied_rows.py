"""For groups that send rows as copies, and cannot read each other's memory."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pieces_of(received_RD: Tensor, receive: Sequence[int], rank: int) -> list[Tensor]:
    """What `Group.exchange_pieces` returns, of what `Group.exchange_rows` did: a rank has its own rows already.

    Args:
        received_RD: rows of all ranks, in their order.
        receive: how many of each.
        rank: this process.
    """
    pieces = list(torch.split(received_RD, list(receive)))
    pieces[rank] = pieces[rank][:0]
    return pieces
