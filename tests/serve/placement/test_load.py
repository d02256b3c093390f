import numpy as np
import pytest

from vlmoe_serve.placement.load import Load, at_ranks, balanced_homes, joined


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
