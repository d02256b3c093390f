import pytest

from vlmoe_serve.placement.machines import BASE, CPU, GPU, Sizes, costs_on


def test_constants_follow_from_the_device_and_the_model() -> None:
    base = costs_on("cuda", BASE)
    assert GPU.name in base.origin
    assert "768 x 3072" in base.origin
    half = costs_on("cuda", Sizes(dim=384, ffn_dim=3072, weight_bytes=2, shared_parameters=1), 8)
    assert half.token_us == pytest.approx(base.token_us / 2)
    assert half.token_bytes == base.token_bytes // 2
    assert half.ranks_per_node == 8

    slow = costs_on("cpu", BASE)
    assert CPU.name in slow.origin
    assert slow.dense_token_us > 10 * base.dense_token_us
    # ranks of one host, however many
    assert (slow.nodes(16) == 0).all()
    assert slow.far_us > 2 * slow.near_us > 0


def test_precision_is_in_the_products_the_weights_and_the_rows() -> None:
    int8, bf16, fp32 = (
        costs_on("cpu", Sizes(dim=768, ffn_dim=3072, weight_bytes=weight_bytes, shared_parameters=10))
        for weight_bytes in (1, 2, 4)
    )
    assert int8.token_us < bf16.token_us < fp32.token_us
    assert int8.expert_bytes < bf16.expert_bytes < fp32.expert_bytes
    assert (int8.token_bytes, bf16.token_bytes, fp32.token_bytes) == (1536, 1536, 3072)
    assert int8.dense_token_us == bf16.dense_token_us


def test_reading_an_expert_costs_as_much_as_some_tokens_whatever_the_size() -> None:
    for dim, hidden in ((384, 1536), (768, 3072)):
        for weight_bytes in (2, 4):
            sizes = Sizes(dim=dim, ffn_dim=hidden, weight_bytes=weight_bytes, shared_parameters=0)
            assert 5 <= costs_on("cpu", sizes).stream_tokens <= 9


def test_sizes_that_are_not_known_are_said_to_be_guessed() -> None:
    costs = costs_on("cpu", None)
    assert costs.expert_bytes == BASE.expert_bytes
    assert "the trace does not say" in costs.origin
