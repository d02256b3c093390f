"""python -m vlmoe_loadtests.simulator: one table, the same on every machine."""

import argparse
import sys

from vlmoe_loadtests.arrivals import ARRIVALS
from vlmoe_loadtests.simulator.policies import POLICIES
from vlmoe_loadtests.simulator.report import report, table
from vlmoe_loadtests.simulator.simulation import simulate
from vlmoe_loadtests.simulator.workload import RAGGED, TEXTS, mean_work, tickets
from vlmoe_serve.batching.cost import CostModel

# Milliseconds fixed, per token, per unit of attention: a small model on a CPU core, and a large one on a GPU, where
# launching is dear and tokens are cheap.
ENGINES = {"cpu": CostModel(4.0, 0.06, 4e-5), "gpu": CostModel(8.0, 0.002, 1e-6)}
MIXES = {"ragged": RAGGED, "texts": TEXTS}


def main() -> int:
    """Simulate and print."""
    parser = argparse.ArgumentParser(prog="python -m vlmoe_loadtests.simulator", description=__doc__)
    parser.add_argument("--engine", choices=sorted(ENGINES), nargs="+", default=["cpu"])
    parser.add_argument("--mix", choices=sorted(MIXES), nargs="+", default=["ragged"])
    parser.add_argument("--arrivals", choices=sorted(ARRIVALS), nargs="+", default=["poisson", "bursts"])
    parser.add_argument(
        "--load", type=float, nargs="+", default=[0.7, 1.0, 3.0], help="of the engine's capacity"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="in simulated time")
    parser.add_argument("--noise", type=float, default=0.1, help="of a batch's time, as a logarithm")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = []
    for engine_name in args.engine:
        engine = ENGINES[engine_name]
        for mix in args.mix:
            # what full batches would carry
            batch_ms = max(100.0, 16 * engine.fixed_ms)
            capacity = 1e6 / engine.drain_ms(mean_work(MIXES[mix], args.seed), batch_ms)
            for arrivals in args.arrivals:
                for load in args.load:
                    due = ARRIVALS[arrivals](load * capacity, args.seconds, args.seed)
                    arriving = tickets(due, MIXES[mix], args.seed)
                    for name, make in POLICIES.items():
                        fates = simulate(make(engine), arriving, engine, noise=args.noise, seed=args.seed)
                        rows.append((f"{engine_name} {mix} {arrivals} {load:g} x", name, report(fates)))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
