"""What vLLM's layers cannot do for a network of ours: refused before vLLM starts, in one line."""

from vlmoe_model.config import ModelConfig

# of vLLM's attention on CPU
CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
# what its grouped GEMM on CPU counts in
_CPU_EXPERT_DIM = 32


def check(config: ModelConfig, device: str, tensor_parallel: int) -> None:
    """Refuse what would fail, or answer differently.

    Raises:
        ValueError: what it is, and that the default engine has it.
    """
    for is_so, what in (
        (config.relative_position, "its attention takes no relative-position bias"),
        (
            config.capacity_eval is not None,
            "its experts drop no tokens, and the checkpoint has a capacity_eval",
        ),
        (
            config.sub_ln and bool(config.moe_blocks),
            "its experts have no norm between their matrices (sub_ln)",
        ),
        (config.sub_ln and tensor_parallel > 1, "a norm inside a layer (sub_ln) cannot be shared by ranks"),
        (
            config.num_heads % tensor_parallel != 0,
            f"{config.num_heads} attention heads cannot be shared equally by {tensor_parallel} ranks",
        ),
        (
            config.ffn_dim % tensor_parallel != 0,
            f"a feed-forward width of {config.ffn_dim} cannot be shared equally by {tensor_parallel} ranks",
        ),
        (
            device == "cpu" and config.head_dim not in CPU_HEAD_DIMS,
            f"on CPU an attention head is {', '.join(map(str, CPU_HEAD_DIMS))} wide, not {config.head_dim}",
        ),
        (
            device == "cpu" and bool(config.moe_blocks) and config.dim % _CPU_EXPERT_DIM != 0,
            f"on CPU experts need a width that is a multiple of {_CPU_EXPERT_DIM}, not {config.dim}",
        ),
    ):
        if is_so:
            raise ValueError(f"engine vllm cannot run this checkpoint: {what}; engine torch can")
