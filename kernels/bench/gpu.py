"""The layers of a base model on a GPU: our kernels beside plain torch, a mixture beside its dense twin.

    python kernels/bench/gpu.py [--dtype bf16] [--tokens 40 197 1576 6304] [--experts 32]

Mixtures have balanced routing, computed on the way. "plain torch" is a loop over experts on sorted rows, "dense" the
same layer with one expert as two `F.linear`. Medians in milliseconds. `TRITON_INTERPRET=1 ... --device cpu` walks
through the script without a GPU, at sizes of a few dozens.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from vlmoe_kernels import Pool, Run, eager, make_plan
from vlmoe_kernels import triton as ours
from vlmoe_kernels.ops import GroupedOp

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# tokens of an image of 224 pixels
SEQUENCE = 197
HEADS = 12


def median_ms(op: Callable[[], Tensor], device: torch.device) -> float:
    """Median time of a call."""
    if device.type == "cuda":
        return float(triton.testing.do_bench(op, return_mode="median"))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        op()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def feed_forward(
    num_tokens: int, dim: int, hidden: int, experts: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Callable[[], Tensor]]:
    """One layer in four ways."""

    def random(*shape: int, scale: float) -> Tensor:
        return (torch.randn(*shape, device=device) * scale).to(dtype)

    pool = Pool(
        random(experts, hidden, dim, scale=dim**-0.5),
        random(experts, hidden, scale=0.1),
        random(experts, dim, hidden, scale=hidden**-0.5),
        random(experts, dim, scale=0.1),
    )
    # token i prefers expert i mod E: the first E inputs are large
    groups = torch.arange(num_tokens, device=device) % experts
    x_TD = torch.randn(num_tokens, dim, device=device)
    x_TD[:, :experts] += 20.0 * F.one_hot(groups, experts)
    router = torch.eye(experts, dim, device=device)
    pool_T = torch.zeros(num_tokens, dtype=torch.int64, device=device)
    cast_TD, (w1, b1, w2, b2) = x_TD.to(dtype), (t[0] for t in pool[:4] if t is not None)

    _, routed = ours.routed_ffn([pool], [router], 1e-6, top_k=1, by_score=False)
    loop, one = eager.grouped_ffn([pool], 1e-6), ours.grouped_ffn([Pool(*(t[:1] for t in pool[:4]))], 1e-6)
    all_in_one = make_plan(torch.zeros_like(groups).unsqueeze(1), None, 1)

    def plain() -> Tensor:
        gates_T, chosen_T = (x_TD @ router.T).softmax(dim=1).max(dim=1)
        return loop(cast_TD, make_plan(chosen_T.unsqueeze(1), gates_T.unsqueeze(1), experts))

    return {
        "mixture, ours": lambda: routed(x_TD, pool_T, None),
        "mixture, plain torch": plain,
        "dense, ours": lambda: one(cast_TD, all_in_one),
        "dense, plain torch": lambda: F.linear(F.gelu(F.linear(cast_TD, w1, b1)), w2, b2),
    }


def attention(
    num_tokens: int, dim: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Callable[[], Tensor]]:
    """Images, or one shorter sequence; torch's fused attention is given a batch of equal lengths."""
    length = min(num_tokens, SEQUENCE)
    run = Run(num_tokens // length, length)
    qkv = torch.randn(run.num_sequences * length, 3, HEADS, dim // HEADS, device=device).to(dtype)
    dense = qkv.view(run.num_sequences, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    return {
        "attention, ours": lambda: ours.attention(*qkv.unbind(1), [run], None),
        "attention, torch": lambda: F.scaled_dot_product_attention(*dense),
    }


def training(
    num_tokens: int, dim: int, hidden: int, experts: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Callable[[], Tensor]]:
    """Forward and backward of a mixture with float32 weights under autocast, balanced, one choice a token."""
    # what inference mode makes has no gradients
    with torch.inference_mode(mode=False):
        shapes = (experts, hidden, dim), (experts, hidden), (experts, dim, hidden), (experts, dim)
        pool = Pool(
            *((torch.randn(shape, device=device) * shape[-1] ** -0.5).requires_grad_() for shape in shapes)
        )
        x_TD = torch.randn(num_tokens, dim, device=device).requires_grad_()
        groups_T1 = torch.randint(experts, (num_tokens, 1), device=device)
        plan = make_plan(groups_T1, torch.rand(num_tokens, 1, device=device), experts)

    def step(learning_ffn: Callable[[list[Pool], float], GroupedOp]) -> Tensor:
        with torch.inference_mode(mode=False), torch.enable_grad():
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                y_TD = learning_ffn([pool], 1e-6)(x_TD, plan)
            return torch.autograd.grad(y_TD.float().square().sum(), [x_TD, *pool[:4]])[0]

    return {
        "training, ours": lambda: step(ours.learning_ffn),
        "training, plain torch": lambda: step(eager.learning_ffn),
    }


@torch.inference_mode()
def main() -> None:
    """Print a line an operation and number of tokens."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bf16")
    parser.add_argument("--tokens", type=int, nargs="+", default=[40, 197, 1576, 6304])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    torch.manual_seed(0)
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"
    print(f"{name}, torch {torch.__version__}, triton {triton.__version__}, {options.dtype}, median ms")
    for num_tokens in options.tokens:
        ops = feed_forward(num_tokens, options.dim, options.hidden, options.experts, dtype, device)
        ops |= attention(num_tokens, options.dim, dtype, device)
        ops |= training(num_tokens, options.dim, options.hidden, options.experts, dtype, device)
        times = {what: median_ms(op, device) for what, op in ops.items()}
        for what, ms in times.items():
            print(f"{num_tokens:6} tokens  {what:22} {ms:9.3f}")
        ratio = times["mixture, ours"] / times["dense, plain torch"]
        print(f"{num_tokens:6} tokens  mixture, ours / dense, plain torch: {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
