"""What has to be equal on all nodes of a group, as texts: an answer must not depend on the node that computes it."""

from collections.abc import Mapping

from vlmoe_serve import __version__
from vlmoe_serve.engine.base import EngineOptions, Rendezvous


def terms_of(options: EngineOptions, meeting: Rendezvous, model_id: str) -> dict[str, str]:
    """By the name that a refusal calls it."""
    return {
        "the version": __version__,
        "--nodes": str(meeting.num_nodes),
        "--ranks": str(options.ranks),
        "--threads": str(options.threads),
        "--device": options.device,
        "--dtype": options.dtype,
        "the checkpoint": model_id,
    }


def difference(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str | None:
    """The first that differs, as a sentence; None when all are equal."""
    for name in [*ours, *theirs]:
        if theirs.get(name) != ours.get(name):
            return f"{name} is {theirs.get(name, 'unknown')} there and {ours.get(name, 'unknown')} on node 0"
    return None
