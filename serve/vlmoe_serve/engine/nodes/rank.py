"""Rank 1 and up of a model over several nodes: run what rank 0 sends over the network until one of both is gone.

python -P -m vlmoe_serve.engine.nodes.rank PARENT_PID SOCKET_FD RANK ADMISSION
"""

import dataclasses
import logging
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import cast

from vlmoe_kernels.choice import choose_backend
from vlmoe_model.precision import choose_device, choose_dtype
from vlmoe_serve.engine import protocol
from vlmoe_serve.engine.base import EngineOptions, Rendezvous
from vlmoe_serve.engine.duty import do_duty
from vlmoe_serve.engine.lifetime import die_with
from vlmoe_serve.engine.loading import check_devices, join_nodes
from vlmoe_serve.engine.nodes.link import Link, read_key
from vlmoe_serve.engine.nodes.store import LinkStore
from vlmoe_serve.engine.nodes.wire import Begin, Joined, RankHello, Refused
from vlmoe_serve.engine.protocol import FromRank, Load, ToRank
from vlmoe_serve.logs import configure_logs

_log = logging.getLogger(__name__)


class RemoteBoss:
    """Rank 0 at the other end of a link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def hear(self) -> ToRank:
        """See `Boss`."""
        return cast(ToRank, self._link.receive())

    def tell(self, message: FromRank) -> None:
        """See `Boss`."""
        self._link.send(message)


def main(argv: Sequence[str]) -> int:
    """Serve rank 0, wherever it is."""
    parent_pid, sock_fd, rank = map(int, argv[:3])
    die_with(parent_pid)
    configure_logs()
    with socket.socket(fileno=sock_fd) as sock:
        load = protocol.receive(sock)
    assert isinstance(load, Load)
    assert load.options.rendezvous is not None
    try:
        check_devices(load.options)
    except ValueError as error:
        _log.error("%s", error)
        return 1
    try:
        return _serve(load.options, load.options.rendezvous, rank, argv[3])
    except OSError:
        # rank 0 is gone: our parent begins anew
        os._exit(0)
    except Exception:
        # The other ranks wait for us in an exchange: the end of this process is what tells them.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _serve(options: EngineOptions, where: Rendezvous, rank: int, admission: str) -> int:
    device = choose_device(options.device)
    link = Link.connect(where.host, where.port, read_key(where.key_file))
    how = f"{choose_dtype(options.dtype, device)} with {choose_backend('auto', device)}"
    link.send(RankHello(rank, admission, how))
    begin = link.receive()
    if isinstance(begin, Refused):
        _log.error("%s", begin.reason)
        return 1
    assert isinstance(begin, Begin), begin
    address = begin.address or link.address
    group = join_nodes(options, rank, LinkStore(link), address, where.host, begin.store_port)
    link.send(Joined())
    # of node 0, whatever this node was told
    options = dataclasses.replace(
        options, placement=begin.placement, mode=begin.mode, rebalance=begin.rebalance, costs=begin.costs
    )
    do_duty(RemoteBoss(link), options, group)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
