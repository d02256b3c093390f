"""What counting the load of experts costs a step.

    .venv/bin/python serve/bench/meter.py [--layers 12] [--experts 32]

Prints microseconds a step for one rank and for several, and for one report a second: its size on the way to the front.
"""

import argparse
import dataclasses
import pickle
import statistics
import time

import numpy as np

from vlmoe_model.presets import PRESETS
from vlmoe_serve.engine.meter import ExpertMeter
from vlmoe_serve.engine.report import EngineReport

REPEATS = 2000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--experts", type=int, default=32)
    args = parser.parse_args()
    config = dataclasses.replace(
        PRESETS["vlmoe_small_32e"],
        num_layers=args.layers,
        vl_start=None,
        moe_blocks=tuple(range(args.layers)),
        num_experts=args.experts,
    )
    rng = np.random.default_rng(0)
    num_groups = 2 * args.experts
    for num_ranks in (1, 2, 8):
        meter = ExpertMeter(config, num_ranks, 2 * config.dim)
        flow = rng.integers(0, 20, (num_groups, num_ranks, num_ranks))
        counts = flow.sum(axis=2)
        sizes = tuple(counts[:, 0].tolist())
        us = []
        for _ in range(REPEATS):
            start_s = time.perf_counter()
            for layer in range(args.layers):
                if num_ranks == 1:
                    meter.observe(layer, sizes, None)
                else:
                    meter.observe(layer, counts, flow)
            meter.end_step()
            us.append(1e6 * (time.perf_counter() - start_s))
        size = len(pickle.dumps(EngineReport(meter.take(), (0,) * num_ranks)))
        print(f"{num_ranks} ranks: {statistics.median(us):.0f} us a step, {size} bytes a report")


if __name__ == "__main__":
    main()
