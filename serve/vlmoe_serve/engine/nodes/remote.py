"""Rank 0 of a model over several nodes: wait for the others, load with them, reach them over the network."""

import os
import sys
import threading
from collections.abc import Callable
from typing import cast

from vlmoe_kernels.choice import choose_backend
from vlmoe_model.precision import choose_device, choose_dtype
from vlmoe_serve.engine.base import EngineOptions, Rendezvous
from vlmoe_serve.engine.loading import free_port, join_nodes, load_share
from vlmoe_serve.engine.nodes.link import Link
from vlmoe_serve.engine.nodes.meeting import Meeting
from vlmoe_serve.engine.nodes.spawn import LocalRanks
from vlmoe_serve.engine.nodes.store import HubStore, Values
from vlmoe_serve.engine.nodes.terms import terms_of
from vlmoe_serve.engine.nodes.wire import Begin
from vlmoe_serve.engine.other_ranks import OtherRank
from vlmoe_serve.engine.protocol import FromRank, ToRank
from vlmoe_serve.engine.ranks import Ranks, check_options, together


class RemoteChannel:
    """To a rank at the other end of a link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def fileno(self) -> int:
        """See `Channel`."""
        return self._link.fileno()

    def tell(self, message: ToRank) -> None:
        """See `Channel`."""
        self._link.send(message)

    def hear(self) -> FromRank:
        """See `Channel`."""
        return cast(FromRank, self._link.receive())


def load(options: EngineOptions, where: Rendezvous, model_id: Callable[[], str]) -> Ranks:
    """Wait for the other nodes; then all ranks load at the same time.

    Args:
        options: of the engine.
        where: the rendezvous; this is node 0 of it.
        model_id: what the other nodes' checkpoint must be; called in other threads.

    Raises:
        ValueError: a bad checkpoint, or nodes that do not come or compute otherwise than this one.
    """
    check_options(options)
    device = choose_device(options.device)
    how = f"{choose_dtype(options.dtype, device)} with {choose_backend('auto', device)}"
    meeting = Meeting(where, options.ranks, lambda: terms_of(options, where, model_id()), how, _end_without)
    # this host's own ranks come to the rendezvous like all others
    LocalRanks(options, range(1, options.local_ranks), meeting.admission, _end_with)
    links, address = meeting.gather()
    values, store_port = Values(), free_port()
    joining = []
    for rank, link in links.items():
        here = rank < options.local_ranks
        link.send(
            Begin(
                address if here else "",
                store_port,
                options.placement,
                options.mode,
                options.rebalance,
                options.costs,
            )
        )
        joining.append(threading.Thread(target=values.serve, args=(link,), daemon=True))
        joining[-1].start()
    group = join_nodes(options, 0, HubStore(values), address, where.host, store_port)
    for thread in joining:
        thread.join()
    runner = load_share(options, group)
    others = [
        OtherRank(f"rank {rank} on node {rank // options.local_ranks}", RemoteChannel(link))
        for rank, link in sorted(links.items())
    ]
    for other in others:
        other.wait_until_loaded()
    meeting.tell_up()
    return together(options, runner, others)


def _end_with(rank: int, code: int) -> None:
    _end(f"rank {rank} ended with code {code}")


def _end_without(node: int) -> None:
    _end(f"node {node} is lost")


def _end(why: str) -> None:
    """The supervisor is to start the group again at once."""
    print(f"{why}: all ranks start again", file=sys.stderr, flush=True)
    os._exit(1)
