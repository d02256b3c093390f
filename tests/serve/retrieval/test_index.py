import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_serve.retrieval.index import Index, Item

DIM = 5


def unit(seed):
    vector = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def item(number, *, version=0):
    return Item(f"i{number}", unit(number + 1000 * version), {"n": number, "version": version})


def obvious(items, query, top_k, keep):
    scored = [(float(i.vector @ query), i.id) for i in items.values() if keep is None or keep(i.metadata)]
    return [item_id for _, item_id in sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:top_k]]


changes = st.lists(
    st.tuples(st.sampled_from(["upsert", "delete"]), st.integers(0, 12), st.integers(0, 3)), max_size=40
)


@given(changes=changes, top_k=st.integers(1, 15), seed=st.integers(0, 99), even=st.booleans())
def test_after_any_changes_it_finds_what_a_plain_sort_finds(changes, top_k, seed, even):
    index, truth = Index(DIM), {}
    for verb, number, version in changes:
        one = item(number, version=version)
        if verb == "upsert":
            index.upsert([one])
            truth[one.id] = one
        else:
            assert index.delete(one.id) is (truth.pop(one.id, None) is not None)
    keep = (lambda metadata: metadata["n"] % 2 == 0) if even else None
    hits = index.search(unit(seed), top_k, keep)
    assert [hit.id for hit in hits] == obvious(truth, unit(seed), top_k, keep)
    assert all(hit.metadata == truth[hit.id].metadata for hit in hits)
    assert [hit.score for hit in hits] == pytest.approx(
        [float(truth[h.id].vector @ unit(seed)) for h in hits], abs=1e-6
    )
    assert len(index) == len(truth)


def test_it_grows_past_its_first_size():
    index = Index(DIM)
    index.upsert([item(number) for number in range(1000)])
    assert len(index) == 1000
    assert index.search(item(777).vector, 1)[0].id == "i777"


def test_equal_scores_are_ordered_by_id_wherever_they_lie():
    index = Index(DIM)
    index.upsert([Item(name, unit(1), {}) for name in "hcbgadfe"])
    assert [hit.id for hit in index.search(unit(1), 3)] == ["a", "b", "c"]


def test_an_empty_index_finds_nothing():
    assert Index(DIM).search(unit(1), 3) == []
