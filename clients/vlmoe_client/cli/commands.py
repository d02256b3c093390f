"""The commands that talk to a server: ask, classify, search, add."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import AddResult, Client, VlmoeError
from .files import UsageError, items_of, picture, query


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        help: One line for `vlmoe --help`.
        description: More, for the command's own help.
        arguments: Adds the command's arguments to its parser.
        run: Does it; returns the exit code.
    """

    help: str
    description: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Client, argparse.Namespace], int]


def run_command(args: argparse.Namespace) -> int:
    """Run a parsed command; every foreseeable failure is one line on stderr."""
    try:
        with Client(args.url, api_key=args.api_key, timeout=args.timeout) as client:
            return COMMANDS[args.command].run(client, args)
    except VlmoeError as error:
        return _fail(args.command, error, 1)
    except BrokenPipeError:
        raise
    except (UsageError, ValueError, OSError) as error:
        return _fail(args.command, error, 2)


def _fail(command: str, error: Exception, code: int) -> int:
    print(f"vlmoe {command}: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _ask_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a picture file, a URL, or - for standard input")
    parser.add_argument("question", metavar="QUESTION")
    _add_top_k(parser)


def _ask(client: Client, args: argparse.Namespace) -> int:
    result = client.vqa(picture(args.image), args.question, top_k=args.top_k, model=args.model)
    return _show(args, asdict(result), ((each.score, each.answer) for each in result.answers))


def _classify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", nargs="*", metavar="IMAGE", help="one picture, or two with --text, or none with --text"
    )
    parser.add_argument("--text", help="the text, or the statement about two pictures")
    parser.add_argument("--text-pair", metavar="TEXT", help="the hypothesis, when --text is a premise")
    parser.add_argument("--labels", metavar="A,B,C", help="labels of your own, by similarity")
    parser.add_argument("--head", metavar="NAME", help="where the checkpoint has several")
    _add_top_k(parser)


def _classify(client: Client, args: argparse.Namespace) -> int:
    images = [picture(each) for each in args.image]
    if not images and args.text is None:
        raise UsageError("give an IMAGE or --text")
    if len(images) > 1 and args.text is None:
        raise UsageError("several pictures need the statement about them: --text")
    labels = None
    if args.labels is not None:
        labels = [label.strip() for label in args.labels.split(",") if label.strip()]
    result = client.classify(
        images[0] if len(images) == 1 else None,
        images=images if len(images) > 1 else None,
        text=args.text,
        text_pair=args.text_pair,
        labels=labels,
        head=args.head,
        top_k=args.top_k,
        model=args.model,
    )
    return _show(args, asdict(result), ((each.score, each.label) for each in result.labels))


def _search_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("collection", metavar="COLLECTION")
    parser.add_argument("query", metavar="TEXT|IMAGE", help="words, or the name of a picture file")
    parser.add_argument(
        "--as", dest="kind", choices=["auto", "text", "image"], default="auto", help="what it is"
    )
    _add_top_k(parser)


def _search(client: Client, args: argparse.Namespace) -> int:
    text, image = query(args.query, args.kind)
    result = client.retrieve(args.collection, text=text, image=image, top_k=args.top_k, model=args.model)
    return _show(args, asdict(result), ((hit.score, hit.id) for hit in result.hits))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("collection", metavar="COLLECTION")
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILES", help="pictures, .txt files, folders of them"
    )


def _add(client: Client, args: argparse.Namespace) -> int:
    images, texts = items_of(args.files)
    result = client.add(args.collection, images, texts=texts, model=args.model)
    if args.json:
        print(json.dumps(asdict(result)))
    else:
        print(f"{result.upserted} added to {args.collection}")
    for id, error in result.errors.items():
        print(f"vlmoe add: {id}: {error.message}", file=sys.stderr)
    return _added_code(result)


def _added_code(result: AddResult) -> int:
    return 1 if result.errors else 0


def _add_top_k(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--top-k", type=int, metavar="K", help="most lines to print")


def _show(args: argparse.Namespace, result: dict[str, Any], rows: Iterable[tuple[float, str]]) -> int:
    if args.json:
        print(json.dumps(result))
    else:
        for score, name in rows:
            print(f"{score:.3f}  {name}")
    return 0


COMMANDS: dict[str, Command] = {
    "ask": Command("ask a question about a picture", "Prints the answers, best first.", _ask_arguments, _ask),
    "classify": Command(
        "label a picture or a text", "Prints the labels, best first.", _classify_arguments, _classify
    ),
    "search": Command(
        "search a collection by words or a picture",
        "Prints the items found, best first.",
        _search_arguments,
        _search,
    ),
    "add": Command(
        "add pictures and texts to a collection",
        "A file's name becomes the item's id; the collection is made when it is missing.",
        _add_arguments,
        _add,
    ),
}
