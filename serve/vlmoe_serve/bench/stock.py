"""The operations in stock torch, as kernel backends: a network packed for one of them is what people write today.

Weights stay as they are, in the memory of whoever else uses them. All variants give the same answers as ours, up to
rounding, and share the network's own code around these operations.
"""

# letters: see vlmoe_kernels/ops.py; N = sequences, L = tokens of the longest, R = routed rows

import importlib.util
from collections.abc import Sequence
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlmoe_kernels import Pool, RoutePlan, Run, eager
from vlmoe_kernels.ops import AddNormOp, GroupedOp, LinearOp


class Sorted:
    """Tokens sorted by expert, `F.linear` an expert; attention by torch's fused one on padded sequences."""

    __name__ = "sorted"

    def linear(self, weight: Tensor, bias: Tensor | None) -> LinearOp:
        """See `ops.Backend.linear`."""
        return eager.linear(weight, bias)

    def grouped_linear(self, weight_GOD: Tensor, bias_GO: Tensor | None) -> GroupedOp:
        """See `ops.Backend.grouped_linear`."""
        return eager.grouped_linear(weight_GOD, bias_GO)

    def grouped_ffn(self, pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
        """See `ops.Backend.grouped_ffn`. A dense layer whose tokens are all of one modality sorts nothing."""
        experts = _experts(pools, norm_eps)
        many = self.experts(pools, norm_eps)

        def op(x_TD: Tensor, plan: RoutePlan) -> Tensor:
            if plan.gates_R is None and plan.complete and max(plan.sizes) == plan.num_tokens:
                return experts[plan.sizes.index(plan.num_tokens)](x_TD)
            return many(x_TD, plan)

        return op

    def experts(self, pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
        """The operation for tokens that go different ways."""
        return eager.grouped_ffn(pools, norm_eps)

    def add_norm(
        self, weight_GD: Tensor, bias_GD: Tensor, eps: float, dtype: torch.dtype, *, exact: bool
    ) -> AddNormOp:
        """See `ops.NormBackend.add_norm`; tokens of several groups are normed group by group."""
        width, num_groups = weight_GD.shape[1:], len(weight_GD)

        def op(x_TD: Tensor, y_TD: Tensor | None, groups_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            if y_TD is not None:
                x_TD = x_TD + y_TD
            rows = (
                [(groups_T == group).nonzero()[:, 0] for group in range(num_groups)] if num_groups > 1 else []
            )
            used = [group for group, rows_G in enumerate(rows) if len(rows_G)] or [0]
            if len(used) == 1:
                normed_TD = F.layer_norm(x_TD, width, weight_GD[used[0]], bias_GD[used[0]], eps)
                return x_TD, normed_TD, normed_TD
            normed_TD = torch.empty_like(x_TD)
            for group in used:
                normed_TD[rows[group]] = F.layer_norm(
                    x_TD[rows[group]], width, weight_GD[group], bias_GD[group], eps
                )
            return x_TD, normed_TD, normed_TD

        return op

    def attention(
        self,
        q_THC: Tensor,
        k_THC: Tensor,
        v_THC: Tensor,
        runs: Sequence[Run],
        bias: Sequence[Tensor] | None,
    ) -> Tensor:
        """See `ops.Backend.attention`."""
        if len(runs) == 1:
            # one length: nothing to pad
            shape = runs[0].num_sequences, runs[0].length, *q_THC.shape[1:]
            mask = None if bias is None else bias[0].to(q_THC.dtype)
            q, k, v = (x_THC.view(shape) for x_THC in (q_THC, k_THC, v_THC))
            return attend_padded(q, k, v, mask).reshape(q_THC.shape)
        lengths = [run.length for run in runs for _ in range(run.num_sequences)]
        real_NL = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
        mask = real_NL[:, None, None]
        if bias is not None:
            mask = torch.full((len(lengths), q_THC.shape[1], *2 * real_NL.shape[1:]), -torch.inf)
            biases = [each for run, each in zip(runs, bias, strict=True) for _ in range(run.num_sequences)]
            for n, (length, each) in enumerate(zip(lengths, biases, strict=True)):
                mask[n, :, :length, :length] = each
                # a padded query looks somewhere, or it would be NaN
                mask[n, :, length:, 0] = 0.0
            mask = mask.to(q_THC.dtype)
        q, k, v = (
            pad_sequence(list(torch.split(x_THC, lengths)), batch_first=True)
            for x_THC in (q_THC, k_THC, v_THC)
        )
        return attend_padded(q, k, v, mask)[real_NL]


class Loop(Sorted):
    """As `Sorted`, but every expert picks its tokens from all of them."""

    __name__ = "loop"

    def experts(self, pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
        """See `Sorted.experts`."""
        ops = _experts(pools, norm_eps)

        def op(x_TD: Tensor, plan: RoutePlan) -> Tensor:
            groups_R = torch.repeat_interleave(torch.tensor(plan.sizes))
            y_TD = torch.zeros_like(x_TD)
            for group, expert in enumerate(ops):
                rows_R = (groups_R == group).nonzero()[:, 0]
                if not len(rows_R):
                    continue
                tokens_R = plan.order_R[rows_R]
                y_RD = expert(x_TD[tokens_R])
                if plan.gates_R is not None:
                    y_RD = (y_RD * plan.gates_R[rows_R].unsqueeze(1)).to(y_RD.dtype)
                y_TD.index_add_(0, tokens_R, y_RD)
            return y_TD

        return op


class GroupedMM(Sorted):
    """As `Sorted`, but with the experts' layer of the transformers library, over torch's grouped_mm.

    It has no norm between the two products: for networks with one, see `has_grouped_mm`.
    """

    __name__ = "grouped_mm"

    def experts(self, pools: Sequence[Pool], norm_eps: float) -> GroupedOp:
        """See `Sorted.experts`."""
        # imported here: it is no dependency of ours
        from transformers.integrations.moe import grouped_mm_experts_forward

        modules = [
            SimpleNamespace(
                num_experts=len(pool.w1),
                up_proj=pool.w1,
                up_proj_bias=pool.b1,
                down_proj=pool.w2,
                down_proj_bias=pool.b2,
                act_fn=F.gelu,
                has_gate=False,
                has_bias=True,
                has_post_expert_norm=False,
                is_transposed=False,
                _is_expert_parallel=False,
            )
            for pool in pools
        ]

        def op(x_TD: Tensor, plan: RoutePlan) -> Tensor:
            y_TD, group, row = torch.zeros_like(x_TD), 0, 0
            for module in modules:
                sizes = torch.tensor(plan.sizes[group : group + module.num_experts])
                num_rows = int(sizes.sum())
                if num_rows:
                    rows = slice(row, row + num_rows)
                    gates_R = torch.ones(num_rows) if plan.gates_R is None else plan.gates_R[rows]
                    y_RD = grouped_mm_experts_forward(
                        module,
                        x_TD[plan.order_R[rows]],
                        torch.repeat_interleave(sizes).unsqueeze(1),
                        gates_R.unsqueeze(1),
                    )
                    y_TD.index_add_(0, plan.order_R[rows], y_RD)
                group, row = group + module.num_experts, row + num_rows
            return y_TD

        return op


def has_grouped_mm() -> bool:
    """Whether the transformers library is here; it is no dependency of ours."""
    return importlib.util.find_spec("transformers") is not None


def _experts(pools: Sequence[Pool], norm_eps: float) -> list[LinearOp]:
    """The layer of every group."""
    return [op for pool in pools for op in eager.experts(pool, norm_eps)]


def attend_padded(q_NLHC: Tensor, k_NLHC: Tensor, v_NLHC: Tensor, mask: Tensor | None) -> Tensor:
    """[N, L, H, C], by torch's fused attention."""
    q, k, v = (x_NLHC.transpose(1, 2) for x_NLHC in (q_NLHC, k_NLHC, v_NLHC))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
