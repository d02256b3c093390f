import numpy as np

from vlmoe_serve.placement.synthetic import Synthetic, synthetic_load, synthetic_rows

SMALL = Synthetic(num_steps=12, tokens_per_step=2000, num_layers=3, num_experts=16)


def popularity(spec: Synthetic) -> np.ndarray:
    counts = synthetic_load(spec).counts_QLX[:, 0, : spec.num_experts].sum(axis=0)
    return np.sort(counts)[::-1] / counts.sum()


def test_the_same_seed_makes_the_same_trace() -> None:
    first, again = synthetic_load(SMALL), synthetic_load(SMALL)
    np.testing.assert_array_equal(first.counts_QLX, again.counts_QLX)
    other = synthetic_load(
        Synthetic(seed=1, num_steps=12, tokens_per_step=2000, num_layers=3, num_experts=16)
    )
    assert other.counts_QLX.shape != first.counts_QLX.shape or (other.counts_QLX != first.counts_QLX).any()


def test_every_token_chooses_once_a_layer() -> None:
    load = synthetic_load(SMALL)
    np.testing.assert_array_equal(load.counts_QLX.sum(axis=2), np.repeat(load.tokens_Q[:, None], 3, axis=1))
    assert load.num_steps == 12
    assert {"image", "text", "pair"} == set(load.modality_Q())


def test_skew_makes_some_experts_popular() -> None:
    flat = popularity(Synthetic(skew=0.0, num_steps=24, num_layers=1, num_experts=16, tokens_per_step=3000))
    steep = popularity(Synthetic(skew=1.4, num_steps=24, num_layers=1, num_experts=16, tokens_per_step=3000))
    assert steep[0] > 2 * flat[0]


def test_layers_are_correlated() -> None:
    rows = next(each for each in synthetic_rows(SMALL) if not each.modality[0])
    experts = rows.expert.reshape(3, -1)
    image = rows.modality.reshape(3, -1)[0] == 0
    pairs = np.zeros((16, 16))
    np.add.at(pairs, (experts[0, image], experts[1, image]), 1)
    # knowing the expert in one layer, the next is far from independent
    independent = np.outer(pairs.sum(axis=1), pairs.sum(axis=0)) / pairs.sum()
    assert np.abs(pairs - independent).sum() / pairs.sum() > 0.5


def test_meaning_drifts() -> None:
    def shift(drift: float) -> float:
        spec = Synthetic(
            drift=drift, num_topics=1, num_steps=40, num_layers=1, num_experts=16, tokens_per_step=2000
        )
        load = synthetic_load(spec)
        early, late = (
            part.counts_QLX[:, 0, :16].sum(axis=0) / part.counts_QLX[:, 0, :16].sum()
            for part in (load.window(0, 10), load.window(30, 40))
        )
        return float(np.abs(early - late).sum())

    assert shift(1.0) > 2 * shift(0.0)


def test_rows_say_what_the_load_says() -> None:
    rows = list(synthetic_rows(SMALL))
    assert sum(map(len, rows)) == synthetic_load(SMALL).counts_QLX.sum()
    assert all((each.step == each.step[0]).all() for each in rows)
    assert [int(each.request[0]) for each in rows] == list(range(len(rows)))
