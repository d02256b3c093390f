"""The metrics that engines report: load of experts and ranks, traffic between ranks, memory.

Counters are totals, so that any window can be looked at. Over a window, the three published measures of imbalance are

    increase(vlmoe_rank_imbalance_total) / increase(vlmoe_moe_layers_total)          busiest / mean, mean over layers
    increase(vlmoe_busiest_rank_tokens_total) / increase(vlmoe_mean_rank_tokens_total)   1 / vLLM's balancedness
    increase(vlmoe_rank_balancedness_total) / increase(vlmoe_moe_layers_total)       SGLang's balancedness
"""

from collections.abc import Iterable
from typing import Any, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vlmoe_serve.engine.report import (
    EngineReport,
    ExpertLoad,
    ExpertMemory,
    MoveReport,
    Refusal,
)
from vlmoe_serve.placement.placement import POOLS


class EngineCollector(Collector):
    """What engines report, added up by model; series are made when somebody looks."""

    def __init__(self) -> None:
        self._loads: dict[str, ExpertLoad] = {}
        self._memory: dict[str, tuple[int, ...]] = {}
        self._device: dict[str, int] = {}
        self._experts: dict[str, ExpertMemory] = {}
        self._moves: dict[str, MoveReport] = {}

    def add(self, model: str, report: EngineReport) -> None:
        """One report more."""
        self._memory[model] = report.memory_G
        if report.device_bytes:
            self._device[model] = report.device_bytes
        if report.experts is not None:
            known = self._experts.get(model)
            self._experts[model] = report.experts if known is None else known.plus(report.experts)
        self._moves[model] = self._moves.get(model, MoveReport()).plus(report.moves)
        if report.load is not None:
            before = self._loads.get(model)
            is_like = before is not None and before.is_like(report.load)
            self._loads[model] = before.plus(report.load) if before is not None and is_like else report.load

    def forget(self, model: str) -> None:
        """It is not served any more, alone or, under a joined name, with others."""
        kept: tuple[dict[str, Any], ...] = (
            self._loads,
            self._memory,
            self._device,
            self._experts,
            self._moves,
        )
        for each in kept:
            for name in [name for name in each if model in name.split("+")]:
                del each[name]

    def collect(self) -> Iterable[Metric]:
        """All series of all models."""
        experts = CounterMetricFamily(
            "vlmoe_expert_tokens",
            "Tokens that chose an expert.",
            labels=["model", "layer", "pool", "expert"],
        )
        ranks = CounterMetricFamily(
            "vlmoe_rank_tokens", "Routed tokens that a rank computed.", labels=["model", "rank"]
        )
        layers = CounterMetricFamily(
            "vlmoe_moe_layers", "Mixtures' layers that were computed.", labels=["model"]
        )
        busiest = CounterMetricFamily(
            "vlmoe_busiest_rank_tokens", "Tokens of the busiest rank of every layer.", labels=["model"]
        )
        mean = CounterMetricFamily(
            "vlmoe_mean_rank_tokens", "Mean over ranks of the tokens of every layer.", labels=["model"]
        )
        ratio = CounterMetricFamily(
            "vlmoe_rank_imbalance", "Busiest rank over mean rank, summed over layers.", labels=["model"]
        )
        balance = CounterMetricFamily(
            "vlmoe_rank_balancedness", "Mean rank over busiest rank, summed over layers.", labels=["model"]
        )
        sent = CounterMetricFamily(
            "vlmoe_all_to_all_bytes", "Tokens' bytes from rank to rank, there and back.", labels=["model"]
        )
        memory = GaugeMetricFamily(
            "vlmoe_rank_memory_bytes", "Resident memory of a rank's process.", labels=["model", "rank"]
        )
        for model, load in self._loads.items():
            for layer, tokens_X in zip(load.layers, load.tokens_LX.tolist(), strict=True):
                for place, tokens in enumerate(tokens_X):
                    pool = int(place >= load.pools[0])
                    expert = place - pool * load.pools[0]
                    experts.add_metric([model, str(layer), POOLS[pool], str(expert)], tokens)
            for rank, tokens in enumerate(load.rank_tokens_G.tolist()):
                ranks.add_metric([model, str(rank)], tokens)
            for family, value in (
                (layers, load.num_layers),
                (busiest, load.busiest),
                (mean, load.mean),
                (ratio, load.ratio),
                (balance, load.balance),
                (sent, load.all_to_all_bytes),
            ):
                family.add_metric([model], value)
        for model, memory_G in self._memory.items():
            for rank, num_bytes in enumerate(memory_G):
                memory.add_metric([model, str(rank)], num_bytes)
        device = GaugeMetricFamily(
            "vlmoe_device_memory_bytes", "Memory of a GPU that an engine holds.", labels=["model"]
        )
        for model, num_bytes in self._device.items():
            device.add_metric([model], num_bytes)
        own = [experts, ranks, layers, busiest, mean, ratio, balance, sent, memory, device]
        return [*own, *self._under_budget(), *self._of_moves()]

    def _under_budget(self) -> Iterable[Metric]:
        """Series of models with a budget for their experts."""
        uses = CounterMetricFamily(
            "vlmoe_expert_uses",
            "Experts with tokens, by batch and layer, and whether they were in memory.",
            labels=["model", "found"],
        )
        read = CounterMetricFamily(
            "vlmoe_expert_read_bytes", "Experts' bytes read from the file.", labels=["model"]
        )
        wait = CounterMetricFamily("vlmoe_expert_wait_seconds", "Waited for experts.", labels=["model"])
        held = GaugeMetricFamily(
            "vlmoe_expert_memory_bytes", "Memory of experts, by what it is.", labels=["model", "kind"]
        )
        for model, each in self._experts.items():
            for found, count in (("memory", each.in_memory), ("ahead", each.ahead), ("disk", each.missed)):
                uses.add_metric([model, found], count)
            read.add_metric([model], each.read_bytes)
            wait.add_metric([model], each.wait_s)
            for kind, num_bytes in (
                ("budget", each.budget_bytes),
                ("resident", each.resident_bytes),
                ("locked", each.locked_bytes),
            ):
                held.add_metric([model, kind], num_bytes)
        return [uses, read, wait, held]

    def _of_moves(self) -> Iterable[Metric]:
        """Series of re-balancing; zero where experts stay."""
        plans = CounterMetricFamily(
            "vlmoe_placement_plans", "Placements planned while serving.", labels=["model"]
        )
        moved = CounterMetricFamily(
            "vlmoe_expert_moves", "Copies of experts that ranks received while serving.", labels=["model"]
        )
        moved_bytes = CounterMetricFamily(
            "vlmoe_expert_moved_bytes", "Weights that ranks received while serving.", labels=["model"]
        )
        refused = CounterMetricFamily(
            "vlmoe_placement_refusals", "Plans that were not followed, by why.", labels=["model", "why"]
        )
        for model, moves in self._moves.items():
            plans.add_metric([model], moves.num_plans)
            moved.add_metric([model], moves.num_moved)
            moved_bytes.add_metric([model], moves.moved_bytes)
            for why in get_args(Refusal):
                refused.add_metric([model, why], moves.refused.get(why, 0))
        return [plans, moved, moved_bytes, refused]
