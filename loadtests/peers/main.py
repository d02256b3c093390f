"""The command line: rounds over servers, added to a file of results, and the table of all of them.

python -m peers --out build/peers                      three rounds over everybody
python -m peers --out build/peers --only mosec ray     in pieces: what was measured stays
python -m peers --out build/peers --table              the table alone
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from peers.environments import DEFAULT_TORCH, Environments, NotInstalled, default_cache
from peers.results import Figures, Results, Trial, rotated
from peers.systems import OURS, SYSTEMS
from peers.table import markdown
from peers.trial import Plan, Questions, interpreter, measure, version
from vlmoe_loadtests.endings import exit_on_sigterm
from vlmoe_loadtests.mixes import Ask, asks

_MIX = "small-vqa"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print; 1 if a server that was asked for could not be measured."""
    args = _parser().parse_args(argv)
    path = args.out / "results.json"
    results = Results.read(path)
    exit_on_sigterm()
    failed = False
    if not args.table:
        given = {"vllm": args.vllm_python} if args.vllm_python.exists() else {}
        environments = Environments(args.environments, args.torch, given)
        mine = split_cores(args.cores)
        plan = Plan(model=args.model, seconds=args.seconds, objective_ms=args.objective_ms, cores=mine)
        if args.install:
            return _install(environments, args.only)
        failed = not _measure(results, path, environments, plan, args)
    table = markdown(results, SYSTEMS)
    (args.out / "table.md").write_text(table)
    print(table)
    return int(failed)


def split_cores(num: int) -> tuple[int, ...]:
    """Move this process off the first `num` processors that it may use, which are the servers'; 0 shares all.

    Raises:
        SystemExit: nothing would be left for the callers.
    """
    cores = sorted(os.sched_getaffinity(0))
    if num and not 0 < num < len(cores):
        raise SystemExit(f"--cores must leave one of {len(cores)} processors to the callers, got {num}")
    if num:
        os.sched_setaffinity(0, cores[num:])
    return tuple(cores[:num])


def _install(environments: Environments, names: Sequence[str]) -> int:
    for name in names:
        try:
            print(f"{name}: {interpreter(SYSTEMS[name], environments)}", flush=True)
        except NotInstalled as error:
            print(f"{name}: {error}", flush=True)
    return 0


def _measure(
    results: Results, path: Path, environments: Environments, plan: Plan, args: argparse.Namespace
) -> bool:
    wanted = asks(_MIX, plan.seed)
    questions = Questions(wanted, _apart(plan.model, wanted))
    results.about = {
        "model": plan.model,
        "seconds": plan.seconds,
        "clients": plan.clients,
        "cores": len(plan.cores),
        "load": plan.load,
        "overloads": list(plan.overloads),
        "objective_ms": plan.objective_ms,
        "timeout_s": plan.timeout_s,
        "body_bytes": round(sum(len(ask.body) for ask in wanted) / len(wanted)),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    if args.capacity:
        results.capacity = args.capacity
    if not results.capacity:
        ours = asyncio.run(measure([SYSTEMS[OURS]], environments, questions, plan, 0.0))[OURS]
        if not isinstance(ours, Figures):
            raise SystemExit(f"the capacity cannot be measured: {ours}")
        results.capacity = round(ours.many_rate, 1)
        print(f"capacity: {results.capacity:.0f} answers a second", flush=True)
    clean = True
    for number in args.round or range(args.rounds):
        wanted_now = [
            SYSTEMS[name]
            for name in rotated(list(SYSTEMS), number)
            if name in args.only and (args.again or not results.has(number, name))
        ]
        if not wanted_now:
            continue
        found = asyncio.run(measure(wanted_now, environments, questions, plan, results.capacity, number))
        for name, figures in found.items():
            if isinstance(figures, Figures):
                told = version(SYSTEMS[name], interpreter(SYSTEMS[name], environments))
                results.add(Trial(number, name, told, figures))
            elif isinstance(figures, NotInstalled):
                results.skipped[name] = str(figures)
            else:
                clean = False
                results.skipped[name] = " ".join(str(figures).split())[-400:]
                print(f"{name}: {figures}", file=sys.stderr, flush=True)
        results.write(path)
        print(f"round {number}: {', '.join(found)}", flush=True)
    return clean


def _apart(model: str, wanted: Sequence[Ask]) -> list[str]:
    """The best answer to each, computed here and now, in a process that ends before anything is measured."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(expected, model, [ask.body for ask in wanted]).result()


def expected(model: str, bodies: Sequence[bytes]) -> list[str]:
    """The best answers, without a server."""
    import base64

    from vlmoe_model.images import load_image
    from vlmoe_model.inputs import Job
    from vlmoe_model.runner import Runner

    runner = Runner.load(model, threads=1)
    processor, labels = runner.directory.processor(), runner.directory.labels["vqa"]
    spec = processor.image_spec("vqa")
    jobs = []
    for body in map(json.loads, bodies):
        picture = load_image(base64.b64decode(body["image"]), spec)
        jobs.append(Job("vqa", processor.example("vqa", image=picture, text=body["question"])))
    return [labels[int(logits.argmax())] for logits in runner.run(jobs)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m peers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/peers"), help="results.json and table.md")
    parser.add_argument("--only", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--round", type=int, nargs="+", help="these rounds only, counted from 0")
    parser.add_argument("--again", action="store_true", help="also what was measured already")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each phase")
    parser.add_argument(
        "--cores",
        type=int,
        default=0,
        help="processors of the servers, apart from the callers'; default: shared",
    )
    parser.add_argument("--capacity", type=float, help="what the loads are shares of; default: measured")
    parser.add_argument("--objective-ms", type=float, default=250.0)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--environments", type=Path, default=default_cache(), help="where they are kept")
    parser.add_argument(
        "--torch", default=DEFAULT_TORCH, help="what pip is told, e.g. 'torch --index-url URL-OF-CPU-BUILDS'"
    )
    parser.add_argument(
        "--vllm-python", type=Path, default=Path(".venv-vllm/bin/python"), help="that of `make test-vllm`"
    )
    parser.add_argument("--install", action="store_true", help="make the environments, measure nothing")
    parser.add_argument("--table", action="store_true", help="print the table of what was measured")
    return parser
