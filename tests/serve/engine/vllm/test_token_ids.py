import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_serve.engine.vllm.token_ids import TokenIds, longest, normalisation, normalisations

SMALL, LARGE = ImageSpec(size=8), ImageSpec(size=16, mean=(0.1, 0.2, 0.3))
CONFIG = ModelConfig(
    dim=32,
    num_layers=1,
    num_heads=1,
    ffn_dim=32,
    vocab_size=50,
    image_size=16,
    patch_size=4,
    max_text=12,
    heads=(
        HeadConfig(name="questions", task="vqa", out_dim=3, image=LARGE, max_text=12),
        HeadConfig(name="shapes", task="image_classification", out_dim=3, image=SMALL, max_text=0),
        HeadConfig(name="tones", task="text_classification", out_dim=2, image=None, max_text=10),
        HeadConfig(name="matching", task="contrastive", out_dim=4, image=LARGE, max_text=8),
    ),
)


def test_every_kind_of_token_has_numbers_of_its_own():
    ids = TokenIds.of(CONFIG)
    text = np.array([2, 49, 3], np.int32)
    assert ids.grids == (2, 4)
    # 5 rows for the small grid, 17 for the large one, and everything once more for pairs
    assert (ids.num_image_rows, ids.half, ids.size) == (22, 72, 144)
    assert ids.prompt(text, None) == [2, 49, 3]
    assert ids.prompt(None, 2) == [50, 51, 52, 53, 54]
    assert ids.prompt(None, 4) == list(range(55, 72))
    assert ids.prompt(text, 4) == [74, 121, 75, *range(127, 144)]


@given(
    st.lists(st.integers(0, 49), min_size=1, max_size=12),
    st.sampled_from([None, 2, 4]),
)
def test_ids_can_be_read_back(tokens, grid):
    ids = TokenIds.of(CONFIG)
    prompt = np.array(ids.prompt(np.array(tokens, np.int32), grid))
    rest = prompt - ids.half * (grid is not None)
    assert prompt.max() < ids.size
    assert (prompt >= ids.half).all() == (grid is not None)
    is_image = rest >= ids.vocab_size
    assert rest[~is_image].tolist() == tokens
    if grid is not None:
        rows = rest[is_image] - ids.vocab_size
        assert rows.tolist() == [ids.first_row(grid) + row for row in range(1 + grid * grid)]


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="2 or 4 patches"):
        TokenIds.of(CONFIG).prompt(None, 3)


def test_the_longest_sequence_is_a_pair():
    assert longest(CONFIG) == 12 + 17


def test_heads_that_normalise_alike_share_a_place():
    assert normalisations(CONFIG) == ["questions", "shapes"]
    assert [normalisation(CONFIG, name) for name in ("questions", "shapes", "matching")] == [0, 1, 0]
    with pytest.raises(ValueError, match="tones"):
        normalisation(CONFIG, "tones")
