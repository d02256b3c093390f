"""A group that has nothing but an all-to-all."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmoe_kernels.collectives.copied_rows import CopyingGroup


class Echo(CopyingGroup):
    """As if all ranks sent what this one sends."""

    def all_to_all(self, rows_RD: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        assert rows_RD.is_contiguous()
        assert list(send) == list(receive)
        return rows_RD.clone()


def test_rows_of_a_rank_itself_are_left_out_of_the_pieces() -> None:
    rows = torch.arange(18.0).view(6, 3)
    first, own, last = Echo(1, 3).exchange_pieces(rows, [1, 3, 2], [1, 3, 2])
    assert torch.equal(first, rows[:1])
    assert own.shape == (0, 3)
    assert torch.equal(last, rows[4:])
    pieces = Echo(0, 3).exchange_pieces(torch.zeros(2, 3), [0, 2, 0], [0, 2, 0])
    assert [len(piece) for piece in pieces] == [0, 2, 0]


def test_rows_are_sent_in_the_order_that_is_asked_for() -> None:
    rows = torch.arange(6.0).view(2, 3).T
    assert torch.equal(Echo(0, 1).exchange_rows(rows, [3], [3]), rows)
    order = torch.tensor([2, 0])
    assert torch.equal(Echo(0, 1).exchange_rows(rows, [2], [2], order), rows[order])


def test_counts_go_to_each_rank_and_room_is_as_wide_as_the_rows() -> None:
    counts = torch.arange(6).view(3, 2).T
    assert torch.equal(Echo(0, 2).exchange_counts(counts), counts)
    assert Echo(0, 2).room(5, torch.zeros(1, 4, dtype=torch.bfloat16)).shape == (5, 4)
