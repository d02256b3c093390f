import os

import pytest
import torch
from torch import Tensor

from vlmoe_kernels.collectives import Group, GroupError
from vlmoe_kernels.collectives.shared_memory import (
    SharedMemoryGroup,
    close_descriptors,
    make_descriptors,
)


def rows_of(src: int, dst: int, step: int, width: int, dtype: torch.dtype) -> Tensor:
    """What rank src has for rank dst in a step: as many rows as the three numbers say, none among them."""
    num_rows = (3 * src + 5 * dst + step) % 7
    values = torch.arange(num_rows * width).view(num_rows, width) + 100 * src + 10 * dst + step
    return (values % 251).to(dtype)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_row_arrives_where_it_was_sent(in_group, size: int, dtype: torch.dtype) -> None:
    """More exchanges than there are areas, with other sizes and widths each time."""

    def work(group: Group) -> None:
        assert group.size == size
        for step in range(7):
            width = 1 + 3 * step
            out = [rows_of(group.rank, dst, step, width, dtype) for dst in range(size)]
            expected = [rows_of(src, group.rank, step, width, dtype) for src in range(size)]
            send, receive = [len(part) for part in out], [len(part) for part in expected]
            got = group.exchange_rows(torch.cat(out), send, receive)
            assert got.dtype == dtype
            assert torch.equal(got, torch.cat(expected))

    in_group(size, work)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_rows_are_picked_and_stay_in_pieces(in_group, size: int) -> None:
    """Rows in another order than they lie in, and out of the room that others see; never what a rank has itself."""

    def work(group: Group) -> None:
        for step in range(6):
            out = [rows_of(group.rank, dst, step, 3, torch.float32) for dst in range(size)]
            expected = [rows_of(src, group.rank, step, 3, torch.float32) for src in range(size)]
            send, receive = [len(part) for part in out], [len(part) for part in expected]
            lying = torch.cat(out).flip(0)
            order = torch.arange(len(lying)).flip(0)
            assert torch.equal(group.exchange_rows(lying, send, receive, order), torch.cat(expected))
            expected[group.rank] = lying[:0]
            for way in ("picked", "in room", "as they lie"):
                rows = lying if way == "picked" else torch.cat(out)
                if way == "in room":
                    rows = group.room(sum(send), lying).copy_(rows)
                pieces = group.exchange_pieces(rows, send, receive, order if way == "picked" else None)
                assert [piece.tolist() for piece in pieces] == [piece.tolist() for piece in expected]

    in_group(size, work)


def test_counts_are_transposed_over_the_ranks(in_group) -> None:
    def work(group: Group) -> Tensor:
        counts = torch.tensor([[10 * group.rank + dst, 7] for dst in range(3)])
        return group.exchange_counts(counts)

    for rank, came in enumerate(in_group(3, work)):
        assert came.tolist() == [[10 * src + rank, 7] for src in range(3)]


@pytest.mark.parametrize("num_counts", [0, 1, 500, 501, 20_000])
def test_counts_travel_through_pipes_or_memory(in_group, num_counts: int) -> None:
    def work(group: Group) -> list[bool]:
        counts = torch.arange(num_counts).expand(2, -1) + 1000 * group.rank
        came = [group.exchange_counts(counts) for _ in range(4)]
        expected = torch.stack([torch.arange(num_counts), torch.arange(num_counts) + 1000])
        return [torch.equal(each, expected) for each in came]

    assert in_group(2, work) == [[True] * 4] * 2


def test_an_area_grows(in_group) -> None:
    def work(group: Group) -> list[bool]:
        right = []
        for num_rows in (1, 5000, 3, 90_000):
            sent = torch.full((2 * num_rows, 2), float(group.rank)) + torch.arange(2 * num_rows).view(-1, 1)
            got = group.exchange_rows(sent, [num_rows, num_rows], [num_rows, num_rows])
            mine = torch.arange(num_rows).view(-1, 1) + group.rank * num_rows
            right.append(torch.equal(got, torch.cat([mine + 0.0, mine + 1.0]).expand(-1, 2)))
        return right

    assert in_group(2, work) == [[True] * 4] * 2


def test_a_rank_that_is_gone_is_named_at_once() -> None:
    first, second = make_descriptors(2)
    for fd in (*second.inbox, *second.outbox):
        if fd >= 0:
            os.close(fd)
    group = SharedMemoryGroup(first)
    with pytest.raises(GroupError, match="rank 1 is gone"):
        group.exchange_counts(torch.ones(2, 1, dtype=torch.int64))
    close_descriptors([first])


def test_a_rank_that_dies_while_it_is_waited_for_is_named(in_group) -> None:
    def work(group: SharedMemoryGroup) -> str:
        if group.rank == 1:
            os.close(group._fds.outbox[0])
            os.dup2(os.open(os.devnull, os.O_WRONLY), group._fds.outbox[0])
            return ""
        with pytest.raises(GroupError) as error:
            group.exchange_counts(torch.ones(2, 1, dtype=torch.int64))
        return str(error.value)

    assert in_group(2, work)[0] == "rank 1 is gone"


def test_a_silent_rank_is_not_waited_for_forever(in_group) -> None:
    def work(group: Group) -> str:
        if group.rank == 1:
            return ""
        with pytest.raises(GroupError) as error:
            group.exchange_counts(torch.ones(2, 1, dtype=torch.int64))
        return str(error.value)

    assert in_group(2, work, timeout_s=0.05)[0] == "rank 1 gave no sign for 0.05 s"


def test_ranks_that_disagree_are_found(in_group) -> None:
    def work(group: Group) -> str:
        expected = 3 if group.rank else 2
        try:
            group.exchange_rows(torch.zeros(4, 1), [2, 2], [expected, 2])
        except (GroupError, RuntimeError) as error:
            return str(error)
        return "fine"

    assert in_group(2, work) == ["fine", "rank 0 sent 8 bytes, 12 were announced"]


def test_all_descriptors_are_closed() -> None:
    before = set(os.listdir("/proc/self/fd"))
    close_descriptors(make_descriptors(3))
    assert set(os.listdir("/proc/self/fd")) == before
