"""From a model and a list of cases to rows."""

import gc
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from vlmoe_kernels import backend
from vlmoe_kernels.choice import choose_backend
from vlmoe_kernels.limits import Limits
from vlmoe_model.precision import DTYPES
from vlmoe_model.routing import Routing
from vlmoe_serve.bench.cases import batch
from vlmoe_serve.bench.memory import peak_mb
from vlmoe_serve.bench.networks import Encode, Model, encode, stock_columns
from vlmoe_serve.bench.report import Row
from vlmoe_serve.bench.timing import interleaved
from vlmoe_serve.bench.work import work_of


@torch.inference_mode()
def measure(model: Model, dtype: str, cases: Sequence[str], *, seconds: float, more: bool) -> Iterator[Row]:
    """Measure all cases in one dtype, with torch's number of threads.

    Args:
        model: what to measure.
        dtype: of the matrices.
        cases: names of `cases.CASES`.
        seconds: about how long each case takes.
        more: also other ways to write the mixture in stock torch.

    Raises:
        ValueError: the network does not take a case's pictures.
    """
    config, wanted = model.config, DTYPES[dtype]
    batches = {name: batch(name, config) for name in cases}
    chosen = choose_backend("auto", "cpu")
    # ours alone in memory first: weights for the others are made once more, the same ones
    ours = model.network(backend(chosen), wanted, model.weights(wanted))
    gc.collect()
    peaks = {name: peak_mb(partial(encode, ours, packed)) for name, packed in batches.items()}
    weights = model.weights(wanted)
    columns: dict[str, Encode] = {
        "moe": partial(encode, ours),
        "dense": partial(encode, model.network(backend(chosen), wanted, weights, dense=True)),
        **stock_columns(model, wanted, weights, more=more),
    }
    limits = Limits(wanted, {chosen, "cpu", "eager"})
    for name, packed in batches.items():
        log: list[Routing] = []
        encode(ours, packed, log)
        work = work_of(packed, config, wanted.itemsize, log)
        times = interleaved(
            {**{column: partial(run, packed) for column, run in columns.items()}, **limits.ops}, seconds
        )
        rate, bandwidth = limits.rates({op: times[op].best_s for op in limits.ops})
        yield Row(
            case=name,
            dtype=dtype,
            threads=torch.get_num_threads(),
            num_experts=config.num_experts,
            num_sequences=len(packed.jobs),
            num_tokens=packed.num_tokens,
            times={column: times[column] for column in columns},
            multiply_adds_s=rate,
            bytes_s=bandwidth,
            roofline_s=max(work.multiply_adds / rate, work.num_bytes / bandwidth),
            peak_mb=peaks[name],
        )
