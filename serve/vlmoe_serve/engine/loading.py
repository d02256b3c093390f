"""A rank's part of the model: join the group, then load what this rank holds."""

import socket
from typing import cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from vlmoe_kernels.collectives import Group
from vlmoe_kernels.collectives.distributed import DistributedGroup
from vlmoe_kernels.collectives.gloo import GlooGroup
from vlmoe_kernels.collectives.shared_memory import Descriptors, SharedMemoryGroup
from vlmoe_model.checkpoint.directory import open_directory, resolve
from vlmoe_model.precision import Dtype, choose_device, choose_dtype_for
from vlmoe_model.runner import Runner
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.constants import costs_for
from vlmoe_serve.engine.expert_shares import holdings_of, split_by_counts


def load_share(options: EngineOptions, group: Group) -> Runner:
    """This rank's part of the model.

    Raises:
        ValueError: a bad checkpoint, or a placement for another model.
    """
    config = open_directory(resolve(options.path)).config
    device = choose_device(options.device)
    dtype = cast(Dtype, choose_dtype_for(config, options.dtype, device))
    # the same on every rank, or they would split differently
    costs = costs_for(options, config)
    return Runner.load(
        options.path,
        device=device,
        dtype=dtype,
        threads=options.threads,
        group=group,
        holdings=None if options.placement is None else holdings_of(options.placement),
        split=split_by_counts(options.ranks, options.local_ranks, costs.stream_tokens),
        movable=options.rebalance is not None,
        mode=options.mode,
    )


def check_devices(options: EngineOptions) -> None:
    """Raises ValueError where this host has not a GPU for each of its ranks."""
    if choose_device(options.device) == "cuda" and torch.cuda.device_count() < options.local_ranks:
        raise ValueError(
            f"--ranks {options.ranks} takes {options.local_ranks} GPUs of a host, one a rank, "
            f"and torch sees {torch.cuda.device_count()} here"
        )


def join_host(options: EngineOptions, descriptors: Descriptors, port: int) -> Group:
    """The group of one host: shared memory between CPU ranks, NCCL between GPUs, whose ranks meet at the port."""
    if choose_device(options.device) == "cpu":
        return SharedMemoryGroup(descriptors)
    return _nccl(options, descriptors.rank, "127.0.0.1", port)


def join_nodes(options: EngineOptions, rank: int, store: Store, address: str, host: str, port: int) -> Group:
    """The group of several nodes: gloo between CPU ranks, those of one node included, NCCL between GPUs.

    Args:
        options: of the engine.
        rank: of all nodes.
        store: through which gloo's ranks find each other.
        address: of this host, as the others reach it.
        host: of node 0, where NCCL's ranks find each other.
        port: likewise.

    Raises:
        GroupError: the ranks do not reach each other.
    """
    if choose_device(options.device) == "cpu":
        return GlooGroup(store, rank, options.ranks, address)
    return _nccl(options, rank, host, port)


def _nccl(options: EngineOptions, rank: int, host: str, port: int) -> Group:
    torch.cuda.set_device(rank % options.local_ranks)
    dist.init_process_group("nccl", f"tcp://{host}:{port}", rank=rank, world_size=options.ranks)
    return DistributedGroup()


def free_port() -> int:
    """A port that nobody listens on, where NCCL's ranks are to meet."""
    with socket.socket() as sock:
        sock.bind(("", 0))
        port: int = sock.getsockname()[1]
        return port
