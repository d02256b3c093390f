import torch

from vlmoe_kernels.collectives.copied_rows import pieces_of


def test_rows_are_split_by_rank_and_ones_own_left_out():
    rows = torch.arange(12.0).reshape(6, 2)
    first, own, last = pieces_of(rows, [1, 3, 2], rank=1)
    assert first.tolist() == [[0, 1]]
    assert own.shape == (0, 2)
    assert last.tolist() == [[8, 9], [10, 11]]


def test_a_rank_may_send_nothing():
    pieces = pieces_of(torch.zeros(2, 3), [0, 2, 0], rank=0)
    assert [piece.shape for piece in pieces] == [(0, 3), (2, 3), (0, 3)]
