"""The options of several nodes, checked together."""

from vlmoe_serve.engine.base import Rendezvous
from vlmoe_serve.option_sources import UsageError
from vlmoe_serve.options import DEFAULTS, Options


def rendezvous_of(options: Options) -> Rendezvous | None:
    """Where the nodes meet; None for one node.

    Raises:
        UsageError: options that do not go together.
    """
    if options.nodes == 1:
        if options.rendezvous is not None or options.node_rank > 0 or options.rendezvous_key_file is not None:
            raise UsageError("--rendezvous, --rendezvous-key-file and --node-rank need --nodes")
        return None
    if options.rendezvous is None:
        raise UsageError("--nodes needs --rendezvous HOST:PORT, an address of node 0")
    if options.node_rank >= options.nodes:
        raise UsageError(f"--node-rank must be from 0 to {options.nodes - 1}, got {options.node_rank}")
    if options.ranks % options.nodes:
        raise UsageError(f"--ranks {options.ranks} cannot be shared equally by --nodes {options.nodes}")
    if len(options.model) > 1 or options.model_root is not None:
        raise UsageError("with --nodes one model is served, and no other is loaded at run time")
    if options.engine != DEFAULTS.engine:
        raise UsageError(f"--nodes is for --engine {DEFAULTS.engine}; {options.engine} has ways of its own")
    host, _, port = options.rendezvous.rpartition(":")
    return Rendezvous(
        options.nodes,
        options.node_rank,
        host.strip("[]"),
        int(port),
        options.rendezvous_key_file,
    )
