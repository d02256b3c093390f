"""The tables of docs/results/placement-*.md: every policy on synthetic traces, later steps and other mixes.

    .venv/bin/python serve/bench/placement.py --out placement.json [--skews 0.6 1.0 1.4] [--ranks 4 8] [--seeds 3]
    .venv/bin/python serve/bench/placement.py --table placement.json

All figures are modelled, so they are the same on every machine; only the planning times are measured.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.evaluate import EVALUATION_ONLY, Question, evaluate
from vlmoe_serve.placement.policies import POLICIES, default_slots
from vlmoe_serve.placement.policies.eplb_vllm import is_installed
from vlmoe_serve.placement.synthetic import Synthetic, synthetic_load

BASE = ("eplb", "uniform")


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of `vlmoe plan --evaluate`, each with its trace's skew; the seed makes the trace and the search."""
    rows: list[dict[str, Any]] = []
    for skew in args.skews:
        for seed in range(args.seeds):
            load = synthetic_load(Synthetic(skew=skew, seed=seed, num_steps=args.steps))
            for ranks in args.ranks:
                start_s = time.perf_counter()
                scores = evaluate(
                    load,
                    Question(
                        num_ranks=ranks,
                        slots_per_rank=default_slots(load.pools, ranks),
                        costs=Costs(),
                        policies=args.policies,
                        seeds=(seed,),
                        threads=args.threads,
                    ),
                )
                rows += [{"skew": skew, **score.to_row()} for score in scores]
                args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
                print(
                    f"skew {skew}, seed {seed}, {ranks} ranks: {time.perf_counter() - start_s:.0f} s",
                    flush=True,
                )
    return rows


def print_tables(rows: list[dict[str, Any]]) -> None:
    """One Markdown table a window: time and p99 over EPLB with its uniform split, means over seeds."""
    cases = sorted({(row["ranks"], row["skew"]) for row in rows})
    for window in dict.fromkeys(row["window"] for row in rows):
        print(f"\n### Window `{window}`\n")
        print("| policy | dispatch | " + " | ".join(f"G{ranks} s{skew:g}" for ranks, skew in cases) + " |")
        print("|---|---|" + "---|" * len(cases))
        base: dict[tuple[int, float, int], dict[str, Any]] = {}
        by_name: dict[tuple[str, str], dict[tuple[int, float], list[dict[str, Any]]]] = {}
        for row in rows:
            if row["window"] == window:
                name = row["policy"], row["dispatch"]
                by_name.setdefault(name, defaultdict(list))[row["ranks"], row["skew"]].append(row)
                if name == BASE:
                    base[row["ranks"], row["skew"], row["seed"]] = row
        for (policy, dispatch), found in by_name.items():
            cells = []
            for ranks, skew in cases:
                against = [(row, base[ranks, skew, row["seed"]]) for row in found[ranks, skew]]
                cells.append(
                    " / ".join(
                        f"{mean(row[key] / other[key] for row, other in against):.3f}"
                        for key in ("step_ms", "step_ms_p99")
                    )
                )
            print(f"| {policy} | {dispatch} | " + " | ".join(cells) + " |")


def main() -> None:
    """Measure and print, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("placement.json"))
    parser.add_argument("--table", type=Path, help="print the tables of this file")
    parser.add_argument("--skews", type=float, nargs="+", default=[0.6, 1.0, 1.4])
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8])
    policies = [name for name in (*POLICIES, *EVALUATION_ONLY) if name != "eplb_vllm" or is_installed()]
    parser.add_argument("--policies", nargs="+", choices=policies, default=policies)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=576)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print_tables(measure(args) if args.table is None else json.loads(args.table.read_text()))


if __name__ == "__main__":
    main()
