import numpy as np
import pytest

from vlmoe_serve.placement.load import Load, at_ranks, balanced_homes, joined, with_mix


def load(num_ranks: int = 1) -> Load:
    """Three steps of two sequences, two layers, pools of two and one."""
    rng = np.random.default_rng(0)
    return Load(
        (1, 3),
        (2, 1),
        np.array([0, 0, 1, 1, 2, 2]),
        np.array([9, 4, 5, 5, 8, 2]),
        rng.integers(0, 9, (6, 2, 3)).astype(np.uint16),
        np.array([0, 1, 1, 0, 1, 1], np.int16) if num_ranks > 1 else np.zeros(6, np.int16),
        num_ranks,
    )


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_no_choice_is_lost_between_ranks(num_ranks: int) -> None:
    seen = at_ranks(load(), num_ranks)
    assert seen.counts_LSXG.shape == (2, 3, 3, num_ranks)
    for step in range(3):
        expected = load().counts_QLX[2 * step : 2 * step + 2].sum(axis=0)
        np.testing.assert_array_equal(seen.counts_LSXG[:, step].sum(axis=2), expected)
    assert seen.home_SG.sum(axis=1).tolist() == [13, 10, 10]


def test_sequences_are_balanced_by_length_and_recorded_homes_are_kept() -> None:
    assert balanced_homes(np.zeros(5, np.int64), np.array([3, 9, 4, 4, 2]), 2).tolist() == [1, 0, 1, 1, 0]
    assert at_ranks(load(2), 2).home_SG.tolist() == [[9, 4], [5, 5], [0, 10]]
    assert at_ranks(load(2), 3).home_SG.tolist() == [[9, 4, 0], [5, 5, 0], [8, 2, 0]]


def test_windows_and_selections_close_up() -> None:
    late = load().window(1, 3)
    assert late.step_Q.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(late.counts_QLX, load().counts_QLX[2:])
    some = load().only(load().tokens_Q > 4)
    assert some.step_Q.tolist() == [0, 1, 1, 2]
    assert some.only(some.tokens_Q > 8).num_steps == 1
    assert joined([late, some]).step_Q.tolist() == [0, 0, 1, 1, 2, 3, 3, 4]


def test_one_modality_alone_leaves_out_steps_without_it() -> None:
    whole = load()
    whole.counts_QLX[2:4, :, 2] = 0
    seen = at_ranks(whole, 2)
    text = seen.only_pool(1)
    assert text.num_steps == 2
    assert not text.counts_LSXG[:, :, :2].any()
    np.testing.assert_array_equal(text.counts_LSXG[:, 0, 2], seen.counts_LSXG[:, 0, 2])
    image = seen.only_pool(0)
    assert image.num_steps == 3
    assert not image.counts_LSXG[:, :, 2].any()


def test_sequences_are_named_by_what_they_hold() -> None:
    counts = np.array([[[1, 0, 0]], [[0, 0, 2]], [[0, 3, 1]]], np.uint16)
    kinds = Load((1,), (2, 1), np.arange(3), np.array([1, 2, 4]), counts, np.zeros(3, np.int16)).modality_Q()
    assert kinds.tolist() == ["image", "text", "pair"]


def test_there_is_at_least_one_rank() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        at_ranks(load(), 0)


def test_a_mix_has_the_shares_that_are_asked_for() -> None:
    kinds = np.array([[[3, 0, 0]] * 2, [[0, 0, 2]] * 2, [[1, 0, 1]] * 2] * 20, np.uint16)
    num = len(kinds)
    mixed = Load(
        (1, 3), (2, 1), np.arange(num), np.arange(num) + 1, kinds, np.zeros(num, np.int16), num_ranks=1
    )
    found = with_mix(mixed, {"image": 1.0, "pair": 3.0})
    assert found.num_sequences == num
    assert found.num_steps == 1
    shares = [(found.modality_Q() == kind).mean() for kind in ("image", "text", "pair")]
    assert shares[1] == 0
    assert shares[2] == pytest.approx(0.75, abs=0.15)
    # more of them than there are: they come again
    assert len(np.unique(found.tokens_Q)) <= 40
    text = with_mix(mixed.only(mixed.modality_Q() == "text"), {"text": 1.0})
    assert (text.modality_Q() == "text").all()
    with pytest.raises(ValueError, match="there is no image among the 20 sequences"):
        with_mix(text, {"text": 1.0, "image": 0.1})
