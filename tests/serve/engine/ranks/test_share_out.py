"""Which sequences are whose."""

from vlmoe_serve.engine.ranks import share_out, threads_of

from ..tiny import CONFIG, jobs


def test_sequences_are_shared_out_by_their_tokens() -> None:
    """Patches of 4 pixels: an image is 17 tokens; six images and six texts over two ranks, then over four."""
    work = jobs(12)
    tokens = [
        (17 if j.example.image is not None else 0)
        + (0 if j.example.tokens is None else len(j.example.tokens))
        for j in work
    ]
    for num_ranks in (1, 2, 4):
        shares = share_out(work, num_ranks, CONFIG)
        assert sorted(index for share in shares for index in share) == list(range(12))
        assert all(share == sorted(share) for share in shares)
        loads = [sum(tokens[i] for i in share) for share in shares]
        assert max(loads) - min(loads) <= max(tokens)
    assert share_out(work[:1], 3, CONFIG) == [[0], [], []]
    assert share_out([], 2, CONFIG) == [[], []]


def test_threads_of_idle_ranks_go_to_those_of_their_host_that_have_sequences() -> None:
    assert threads_of([3, 0], 1, 2) == [2, 1]
    assert threads_of([1, 0, 0, 0], 2, 4) == [8, 2, 2, 2]
    assert threads_of([1, 1, 1, 0], 1, 4) == [1, 1, 1, 1]
    assert threads_of([2, 2], 3, 2) == [3, 3]
    # what another host has to spare is of no use
    assert threads_of([1, 1, 0, 0, 1, 0], 2, 2) == [2, 2, 2, 2, 4, 2]
