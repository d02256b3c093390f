"""A batch padded as a whole: every layer computes every sequence at the length of the longest, the experts too.

What a network of stock modules on [N, L, D] does with a mixed batch. The padding counts as text.
"""

# N = sequences, L = tokens of the longest, T = tokens, D = dim, H = heads, C = width of a head

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlmoe_kernels import Run
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import POOLS, TEXT, Packed, SequenceRun, Tokens
from vlmoe_serve.bench.stock import Sorted, attend_padded


class Masked(Sorted):
    """As `Sorted`, but attention is told who is real, by `real_NL`; None: everybody."""

    __name__ = "masked"

    def __init__(self) -> None:
        self.real_NL: Tensor | None = None

    def attention(
        self,
        q_THC: Tensor,
        k_THC: Tensor,
        v_THC: Tensor,
        runs: Sequence[Run],
        bias: Sequence[Tensor] | None,
    ) -> Tensor:
        """See `ops.Backend.attention`; without a bias."""
        shape = runs[0].num_sequences, runs[0].length, *q_THC.shape[1:]
        mask = None if self.real_NL is None else self.real_NL[:, None, None]
        q, k, v = (x_THC.view(shape) for x_THC in (q_THC, k_THC, v_THC))
        return attend_padded(q, k, v, mask).reshape(q_THC.shape)


def encode_padded(network: VLMoE, backend: Masked, packed: Packed) -> Tensor:
    """The states of the real tokens, [T, D]; the network is packed for that backend."""
    lengths = [run.length for run in packed.runs for _ in range(run.num_sequences)]
    x_TD = torch.cat([network.embeddings(run)[0] for run in packed.runs])
    x_NLD = pad_sequence(list(torch.split(x_TD, lengths)), batch_first=True)
    longest = max(lengths)
    real_NL = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    backend.real_NL = None if len(packed.runs) == 1 else real_NL

    def tokens(of: Tokens, num_pools: int) -> Tokens:
        pool_NL = pad_sequence(list(torch.split(of.pool_T, lengths)), batch_first=True, padding_value=TEXT)
        return Tokens.of(pool_NL.flatten(), num_pools)

    run = SequenceRun(packed.runs[0].head, len(lengths), longest, 0, True, None, None)
    padded = Packed(
        (run,), packed.jobs, tokens(packed.modality, len(POOLS) - 1), tokens(packed.fused, len(POOLS))
    )
    y_TD: Tensor = network.encoder(x_NLD.flatten(0, 1), padded)
    return y_TD[real_NL.flatten()]
