"""The tables of docs/results/placement-*.md: every policy on synthetic traces, later steps and other mixes.

    .venv/bin/python serve/bench/placement.py --out placement.json [--skews 0.6 1.0 1.4] [--ranks 4 8] [--seeds 3]
    .venv/bin/python serve/bench/placement.py --table placement.json [more.json ...] [--plot placement.svg]

All figures are modelled, so they are the same on every machine; only the planning times are measured.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from bars import bars, page

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.evaluate import EVALUATION_ONLY, Question, evaluate
from vlmoe_serve.placement.machines import DEVICES, costs_on
from vlmoe_serve.placement.policies import POLICIES, default_slots
from vlmoe_serve.placement.policies.eplb_vllm import is_installed
from vlmoe_serve.placement.synthetic import Synthetic, synthetic_load

BASE = ("eplb", "uniform")
PLOTTED = (
    ("linear", "uniform"),
    ("eplb", "counts"),
    ("lpt_risk", "counts"),
    ("planner", "counts"),
    ("oracle", "counts"),
)
# ranks and skew
Case = tuple[int, float]


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
                        costs=Costs() if args.device is None else costs_on(args.device, None),
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


def over_base(rows: list[dict[str, Any]], window: str, key: str) -> dict[tuple[str, str], dict[Case, float]]:
    """By policy and dispatch, and by case: time over that of EPLB with its uniform split, means over seeds."""
    mine = [row for row in rows if row["window"] == window]
    base = {
        (row["ranks"], row["skew"], row["seed"]): row[key]
        for row in mine
        if (row["policy"], row["dispatch"]) == BASE
    }
    ratios: dict[tuple[str, str], dict[Case, list[float]]] = {}
    for row in mine:
        case = row["ranks"], row["skew"]
        by_case = ratios.setdefault((row["policy"], row["dispatch"]), defaultdict(list))
        by_case[case].append(row[key] / base[*case, row["seed"]])
    return {name: {case: mean(found) for case, found in by_case.items()} for name, by_case in ratios.items()}


def plot(rows: list[dict[str, Any]]) -> str:
    """The later window as bars, mean and p99."""
    cases = sorted({(row["ranks"], row["skew"]) for row in rows})
    panels = []
    for key, title in (("step_ms", "modelled MoE time of a step"), ("step_ms_p99", "its 99th percentile")):
        ratios = over_base(rows, "later", key)
        series = {
            f"{policy}, {dispatch}": [ratios[policy, dispatch][case] for case in cases]
            for policy, dispatch in PLOTTED
        }
        names = [f"{ranks} ranks, Zipf {skew:g}" for ranks, skew in cases]
        panels.append(
            bars(f"{title}, over EPLB with its uniform split; lower is faster", names, series, line=1)
        )
    return page(panels)


def print_tables(rows: list[dict[str, Any]]) -> None:
    """One Markdown table a window: time and p99 over EPLB with its uniform split, means over seeds."""
    cases = sorted({(row["ranks"], row["skew"]) for row in rows})
    for window in dict.fromkeys(row["window"] for row in rows):
        print(f"\n### Window `{window}`\n")
        print("| policy | dispatch | " + " | ".join(f"G{ranks} s{skew:g}" for ranks, skew in cases) + " |")
        print("|---|---|" + "---|" * len(cases))
        means, tails = (over_base(rows, window, key) for key in ("step_ms", "step_ms_p99"))
        for (policy, dispatch), by_case in means.items():
            tail = tails[policy, dispatch]
            cells = [f"{by_case[case]:.3f} / {tail[case]:.3f}" for case in cases]
            print(f"| {policy} | {dispatch} | " + " | ".join(cells) + " |")


def main() -> None:
    """Measure and print, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("placement.json"))
    parser.add_argument("--table", type=Path, nargs="+", help="print the tables of these files")
    parser.add_argument("--plot", type=Path, help="draw the later window into this file, too")
    parser.add_argument("--skews", type=float, nargs="+", default=[0.6, 1.0, 1.4])
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8])
    policies = [name for name in (*POLICIES, *EVALUATION_ONLY) if name != "eplb_vllm" or is_installed()]
    parser.add_argument("--policies", nargs="+", choices=policies, default=policies)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", choices=DEVICES, help="constants measured there, not the data sheet's")
    parser.add_argument("--steps", type=int, default=576)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    rows = (
        measure(args)
        if args.table is None
        else [row for file in args.table for row in json.loads(file.read_text())]
    )
    print_tables(rows)
    if args.plot is not None:
        args.plot.write_text(plot(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
