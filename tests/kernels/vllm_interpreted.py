"""Run by test_vllm_experts.py: vLLM's fused MoE under Triton's interpreter on CPU tensors, beside the reference.

vLLM's build for CPU turns Triton off and lacks two operators that its builds for GPUs compile: aligning rows with
blocks, and the sum of choices. The first is switched on here, the other two are written out; kernels and all else are
vLLM's own.
"""

import sys

import torch
from torch import Tensor
from triton.backends import backends

backends.setdefault("cpu", next(iter(backends.values())))

import vllm.model_executor.layers.fused_moe.fused_moe as fused  # noqa: E402

from vlmoe_kernels import Pool, backend, make_plan  # noqa: E402


def align(
    topk_ids: Tensor, block_size: int, num_experts: int, *args: object, **kwargs: object
) -> tuple[Tensor, Tensor, Tensor]:
    """Places by expert, each expert's padded to whole blocks; the expert of each block; places in all."""
    flat = topk_ids.flatten().long()
    order, ids = [], []
    for expert in range(num_experts):
        mine = (flat == expert).nonzero()[:, 0]
        padded = -(-len(mine) // block_size) * block_size
        order.append(torch.cat([mine, torch.full((padded - len(mine),), flat.numel())]))
        ids += [expert] * (padded // block_size)
    places = torch.cat(order).int()
    return places, torch.tensor(ids, dtype=torch.int32), torch.tensor([len(places)], dtype=torch.int32)


def main() -> None:
    """Print the largest difference of every case."""
    fused.moe_align_block_size = align
    fused.ops.moe_sum = lambda rows_TKD, out_TD: out_TD.copy_(rows_TKD.sum(dim=1))
    fused.current_platform.__class__.get_device_name = classmethod(lambda cls, device_id=0: "none")
    torch.manual_seed(0)
    for sizes, num_tokens, top_k, drops in (
        ((4, 4, 1), 63, 1, False),
        ((4, 4, 1), 1, 1, False),
        ((3, 5), 40, 2, False),
        ((3, 5), 40, 2, True),
        ((6,), 17, 1, True),
    ):
        pools = [
            Pool(
                torch.randn(size, 48, 32) / 6,
                torch.randn(size, 48),
                torch.randn(size, 32, 48) / 7,
                torch.randn(size, 32),
            )
            for size in sizes
        ]
        num_groups = sum(sizes)
        groups_TK = torch.stack([torch.randperm(num_groups)[:top_k] for _ in range(num_tokens)])
        if drops:
            groups_TK[torch.rand(groups_TK.shape) < 0.3] = -1
        gates_TK = torch.rand(groups_TK.shape) if top_k > 1 else None
        plan = make_plan(groups_TK, gates_TK, num_groups)
        x_TD = torch.randn(num_tokens, 32)
        expected = backend("reference").grouped_ffn(pools, 1e-6)(x_TD, plan)
        actual = backend("vllm").grouped_ffn(pools, 1e-6)(x_TD, plan)
        print("largest difference", float((actual - expected).abs().max()))


if __name__ == "__main__":
    sys.exit(main())
