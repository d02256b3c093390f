"""The feed-forward layer of a block: one grouped operation over the pools V, T and VL.

A dense pool is a pool of one expert. Where the block is a mixture, V and T have routers; VL never has one.
"""

# T = tokens, K = choices per token, D = dim, F = hidden width, E = experts of a pool

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from vlmoe_kernels import Backend, LearningBackend, Pool, RoutePlan, eager, int8, make_plan
from vlmoe_kernels.collectives import Group
from vlmoe_kernels.int8 import Int8Backend, Int8Pool, quantise_pool
from vlmoe_kernels.joined import join
from vlmoe_kernels.ops import CombiningBackend, GroupedOp, RoutedOp, RoutingBackend
from vlmoe_model.config import ModelConfig
from vlmoe_model.dispatch import Dispatcher, local
from vlmoe_model.dispatch.expert_parallel import Counts, ExpertParallel, Split, shares_of
from vlmoe_model.dispatch.holdings import Held
from vlmoe_model.expert_pools import ExpertPool, Int8ExpertPool, cast, only
from vlmoe_model.layers import give_up
from vlmoe_model.packing import POOLS, Tokens
from vlmoe_model.routing import ROUTERS, Router, Routing
from vlmoe_model.routing.router import capacity
from vlmoe_model.routing_mode import DEFAULT, RoutingMode

# pool and number
ExpertKey = tuple[str, int]
ObserveRows = Callable[[Sequence[int]], None]
ObserveLoad = Callable[[int, Sequence[int] | Counts, Counts | None], None]


class FeedForward(nn.Module):
    """Block `index`'s feed-forward layer."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.dim, self.top_k = config.dim, config.top_k
        self.is_moe = index in config.moe_blocks
        self.is_fused = config.vl_start is not None and index >= config.vl_start
        self.dispatch: Dispatcher = local
        # what computes the layer until it is packed
        self.learning_ffn: Callable[[Sequence[Pool], float], GroupedOp] = eager.learning_ffn
        # matrices in int8 when packed, whatever they are stored as
        self.int8 = self.is_moe and config.expert_weights == "int8"
        self.op: GroupedOp | None = None
        self.routed_op: RoutedOp | None = None
        self.op_dtype = torch.float32
        # packed experts by pool and number, where they can be moved
        self.experts: dict[ExpertKey, GroupedOp] | None = None
        self._held: Held | None = None
        self._pack_one: Callable[[Pool], GroupedOp] | None = None
        # packs a mixture whose experts are not here, from its dense pools
        self._pack_offloaded: Callable[[Sequence[Pool]], GroupedOp] | None = None
        # told how many rows each routed group gets, where the host learns it
        self.observe: ObserveRows | None = None
        # a residual branch starts smaller the deeper it lies (BEiT)
        std = config.init_std, config.init_std / (2.0 * (index + 1)) ** 0.5
        names = POOLS if self.is_fused else POOLS[:-1]
        # experts of each pool, or 1
        self.sizes = [config.num_experts if self.is_moe and name != "VL" else 1 for name in names]
        self.num_routed = len(POOLS[:-1]) * config.num_experts if self.is_moe else 0
        self.pools = nn.ModuleDict()
        self.routers = nn.ModuleDict()
        for name, num_experts in zip(names, self.sizes, strict=True):
            sizes = num_experts, config.dim, config.ffn_dim
            self.pools[name] = (
                Int8ExpertPool(*sizes, sub_ln=config.sub_ln)
                if self.int8
                else ExpertPool(*sizes, sub_ln=config.sub_ln, std=std)
            )
            if self.is_moe and name != "VL":
                self.routers[name] = ROUTERS[config.router](
                    config.dim,
                    num_experts,
                    top_k=config.top_k,
                    capacity_train=config.capacity_train,
                    capacity_eval=config.capacity_eval,
                    noise=config.router_noise,
                )

    def _pools(self, dtype: torch.dtype | None = None) -> list[Pool]:
        """Those that have experts here: a rank may hold none of one, and experts may be offloaded."""
        pools = [pool.value(dtype) for pool in self.pools.values() if isinstance(pool, ExpertPool)]
        return [pool for pool in pools if pool.w1 is not None and len(pool.w1)]

    def offload_experts(self, pack: Callable[[Sequence[Pool]], GroupedOp]) -> None:
        """Hold no experts of a mixture; before weights are loaded and packed.

        Args:
            pack: gives the whole layer's operation, from its dense pools.
        """
        self._pack_offloaded = pack
        for name in self.routers:
            give_up(self.pools[name], *Pool._fields)

    def _int8_pools(self) -> list[Int8Pool]:
        """As `_pools`; what is not stored in int8 is quantised now."""
        stored = [pool.value() for pool in self.pools.values() if isinstance(pool, Int8ExpertPool)]
        pools = stored or [quantise_pool(pool) for pool in self._pools()]
        return [pool for pool in pools if len(pool.w1)]

    def _routers(self) -> list[Router | None]:
        """The router of each pool."""
        routers = {name: each for name, each in self.routers.items() if isinstance(each, Router)}
        return [routers.get(name) for name in self.pools]

    def pack(self, backend: Backend, dtype: torch.dtype) -> None:
        """Give the weights up to a backend; inputs are cast to dtype from here on. Once: it may be in two networks."""
        if self.op is not None:
            return
        self.op_dtype = dtype
        if isinstance(self.dispatch, ExpertParallel) and isinstance(backend, CombiningBackend):
            self.dispatch.combine = backend.combine_pieces
        routers = self._routers()
        by_score = {router.claims_by_score for router in routers if router is not None}
        if self.int8:
            int8_pools = self._int8_pools()
            int8_ffn = (backend if isinstance(backend, Int8Backend) else int8).int8_ffn
            self.op = int8_ffn(int8_pools, self.eps) if int8_pools else lambda x_TD, plan: x_TD
        elif self.dispatch is local and by_score in ({False}, {True}) and isinstance(backend, RoutingBackend):
            weights = [None if router is None else router.weight for router in routers]
            self.op, self.routed_op = backend.routed_ffn(
                self._pools(dtype), weights, self.eps, top_k=self.top_k, by_score=by_score == {True}
            )
        elif self._held is not None:
            self._pack_one = lambda pool: backend.grouped_ffn([cast(pool, dtype)], self.eps)
            pools = [pool.value() for pool in self.pools.values() if isinstance(pool, ExpertPool)]
            keys = self._keys(self._held)
            ones = [only(pool, index) for pool in pools for index in range(len(pool.w1))]
            self.experts = {key: self._pack_one(one) for key, one in zip(keys, ones, strict=True)}
            self.op = join(list(self.experts.values()))
        elif self._pack_offloaded is not None:
            self.op = self._pack_offloaded(self._pools(dtype))
        else:
            pools = self._pools(dtype)
            # a rank without experts gets no rows
            self.op = backend.grouped_ffn(pools, self.eps) if pools else lambda x_TD, plan: x_TD
        for pool in self.pools.values():
            give_up(pool, *(Int8Pool._fields if isinstance(pool, Int8ExpertPool) else Pool._fields))
        for router in routers:
            if router is not None:
                router.pack(backend)

    def learn_with(self, backend: LearningBackend) -> None:
        """Train with a backend's kernels instead of plain torch."""
        self.learning_ffn = backend.learning_ffn

    def share_experts(
        self, group: Group, held: Sequence[Held], split: Split, *, movable: bool = False
    ) -> None:
        """Keep this rank's experts of a mixture, and send tokens to those of the others.

        Args:
            group: the ranks.
            held: what each of them holds.
            split: of tokens over copies.
            movable: `rearrange` may change what this rank holds, once it is packed.
        """
        if not self.is_moe:
            return
        self._held = held[group.rank] if movable else None
        shares = shares_of(self.sizes, [name in self.routers for name in self.pools], held)
        self.dispatch = ExpertParallel(group, shares, split)
        for name, mine in zip(self.routers, held[group.rank], strict=True):
            pool = self.pools[name]
            for field, weights in list(pool.named_parameters(recurse=False)):
                kept = weights.detach()[list(mine)]
                setattr(pool, field, nn.Parameter(kept, requires_grad=weights.requires_grad))

    def _keys(self, held: Held) -> list[ExpertKey]:
        """The experts of this rank in the order of its groups."""
        experts = dict(zip(self.routers, held, strict=True))
        return [(name, expert) for name in self.pools for expert in experts.get(name, (0,))]

    def missing(self, held: Held) -> list[ExpertKey]:
        """The experts that this rank needs and does not have, to hold these."""
        assert self.experts is not None, "not loaded to be moved"
        return [key for key in self._keys(held) if key not in self.experts]

    def packed(self, expert: Pool) -> GroupedOp:
        """One expert more, for `rearrange`; may run beside `forward`."""
        assert self._pack_one is not None, "not loaded to be moved"
        return self._pack_one(expert)

    def rearrange(self, group: Group, held: Sequence[Held], new: Mapping[ExpertKey, GroupedOp]) -> None:
        """Hold other experts from the next step on; on all ranks between the same two steps.

        Args:
            group: the ranks.
            held: what each of them holds from now on.
            new: every expert that was `missing`, packed. Those that are held no more are let go.
        """
        assert self.experts is not None
        assert isinstance(self.dispatch, ExpertParallel)
        both = {**self.experts, **new}
        self.experts = {key: both[key] for key in self._keys(held[group.rank])}
        self.op = join(list(self.experts.values()))
        self.dispatch.take(shares_of(self.sizes, [name in self.routers for name in self.pools], held))

    def observe_load(self, observe: ObserveLoad, block: int) -> None:
        """Have the load of a mixture told, layer by layer; see `VLMoE.observe_load`."""
        if isinstance(self.dispatch, ExpertParallel):
            self.dispatch.observe = partial(observe, block)
        elif self.is_moe:
            self.observe = lambda sizes: observe(block, sizes, None)

    def take_load(self) -> tuple[list[int], int] | None:
        """Rows of each routed group, and steps that had any, since the last time; None where `observe` is told."""
        if self.routed_op is None:
            return None
        rows_G, num_steps = self.routed_op.take_load()
        return rows_G[: self.num_routed], num_steps

    def take_part(self, device: torch.device | str) -> None:
        """Serve the other ranks' tokens in a step in which this rank has none."""
        if self.is_moe and self.op is not None:
            nobody = torch.empty(0, self.top_k, dtype=torch.int64, device=device)
            plan = make_plan(nobody, None, sum(self.sizes))
            self.dispatch(torch.empty(0, self.dim, dtype=self.op_dtype, device=device), plan, self.op)

    def forward(
        self,
        x_TD: Tensor,
        tokens: Tokens,
        log: list[Routing] | None,
        mode: RoutingMode = DEFAULT,
        rounded_TD: Tensor | None = None,
    ) -> Tensor:
        """[T, D] -> [T, D]; a mixture's routings (V, then T) are appended to `log`.

        rounded_TD: x in the dtype of the packed weights, by whoever has it already.
        """
        if self.routed_op is not None and log is None and self._backend_routes(mode):
            return self.routed_op(x_TD, tokens.pool_T, self._limits(tokens, mode), rounded_TD)
        plan = self.route(x_TD, tokens, log, mode) if self.is_moe else tokens.plan
        if self.observe is not None:
            self.observe(plan.sizes[: self.num_routed])
        op = self.op or self.learning_ffn(self._pools(), self.eps)
        if self.op is not None:
            x_TD = (x_TD if rounded_TD is None else rounded_TD).to(self.op_dtype)
        return self.dispatch(x_TD, plan, op)

    @property
    def needs_no_host(self) -> bool:
        """Whether, once packed, a device does it all, and the host need not even know how many tokens there are."""
        if not self.is_moe:
            return self.op is not None
        routers = [router for router in self._routers() if router is not None]
        return self.routed_op is not None and all(router.capacity_eval is None for router in routers)

    def _backend_routes(self, mode: RoutingMode) -> bool:
        """Whether the backend's own routing can do it."""
        if not self.is_moe:
            return True
        claims = {"drop": False, "priority": True}.get(mode.overflow)
        by_score = {router.claims_by_score for router in self._routers() if router is not None}
        return mode.top_k is None and (mode.capacity is None or by_score == {claims})

    def _limits(self, tokens: Tokens, mode: RoutingMode) -> Tensor | None:
        """Slots of every group: int32, or None where nothing is dropped."""
        limits = []
        for router, size, rows_P in zip(self._routers(), self.sizes, tokens.rows, strict=True):
            num_choices = len(rows_P) * self.top_k
            factor = mode.capacity if router is None or mode.capacity is not None else router.capacity_eval
            if router is None:
                limits.append(num_choices)
            elif factor is None:
                return None
            else:
                limits += [capacity(factor, num_choices, size)] * size
        return torch.tensor(limits, dtype=torch.int32).to(tokens.pool_T.device)

    def route(
        self, x_TD: Tensor, tokens: Tokens, log: list[Routing] | None, mode: RoutingMode = DEFAULT
    ) -> RoutePlan:
        """Both modalities' tokens in one plan; groups run through the pools in order."""
        groups, gates, first_group = [], [], 0
        top_k = self.top_k if mode.top_k is None else min(self.top_k, mode.top_k)
        for name, size, rows_P in zip(self.pools, self.sizes, tokens.rows, strict=True):
            if not len(rows_P) and len(x_TD) and log is None:
                # nobody to route, and nobody who wants to know
                pass
            elif name in self.routers:
                # most batches are of one modality: nothing to pick, nothing to put back
                picked = x_TD if len(rows_P) == len(x_TD) else x_TD.index_select(0, rows_P)
                routing: Routing = self.routers[name](picked, mode)
                if log is not None:
                    log.append(routing)
                chosen = routing.experts_TK
                groups.append(torch.where(chosen < 0, -1, chosen + first_group))
                gates.append(routing.gates_TK)
            else:
                # one ungated group: the first choice is it, further choices are none
                only = torch.full((len(rows_P), top_k), -1, device=x_TD.device)
                only[:, 0] = first_group
                groups.append(only)
                gates.append(torch.ones(len(rows_P), top_k, device=x_TD.device))
            first_group += size
        groups_TK, gates_TK = torch.cat(groups), torch.cat(gates)
        if tokens.back_T is not None:
            groups_TK, gates_TK = groups_TK[tokens.back_T], gates_TK[tokens.back_T]
        return make_plan(groups_TK, gates_TK, first_group)
