"""Write the Grafana dashboard of the chart: one row of panels after another, each a title and its queries.

python deploy/dashboard.py            write helm/vlmoe/files/dashboard.json
python deploy/dashboard.py --check    exit 1 when it is not what would be written
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "helm" / "vlmoe" / "files" / "dashboard.json"
_SELECT = 'job=~"$job",namespace=~"$namespace"'
# probes and scrapes are no traffic
_ROUTES = f'{_SELECT},route!~"/healthz|/readyz|/metrics"'
_HEIGHT = 8
_SOURCE = {"type": "prometheus", "uid": "${source}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. kind: Grafana's, or "rows" for a heat map with a row a series.

    queries: legend -> PromQL, where SELECT, ROUTES and RATE stand for the common parts.
    """

    title: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"
    width: int = 8
    description: str = ""
    stacked: bool = False


def _quantiles(metric: str, by: str, select: str = "SELECT") -> dict[str, str]:
    inside = f"sum by (le{', ' + by if by else ''}) (rate({metric}_bucket{{{select}}}[RATE]))"
    suffix = f" {{{{{by}}}}}" if by else ""
    return {
        f"p{int(100 * quantile)}{suffix}": f"histogram_quantile({quantile}, {inside})"
        for quantile in (0.5, 0.9, 0.99)
    }


ROWS: dict[str, list[Panel]] = {
    "Now": [
        Panel("Servers", "short", {"": "count(up{SELECT} == 1)"}, "stat", 4),
        Panel("Requests", "reqps", {"": "sum(rate(vlmoe_requests_total{ROUTES}[RATE]))"}, "stat", 4),
        Panel("In flight", "short", {"": "sum(vlmoe_requests_in_flight{SELECT})"}, "stat", 4),
        Panel(
            "Wait for a batch, p90",
            "s",
            {"": "histogram_quantile(0.9, sum by (le) (rate(vlmoe_queue_seconds_bucket{SELECT}[RATE])))"},
            "stat",
            4,
        ),
        Panel(
            "Server errors",
            "percentunit",
            {
                "": '(sum(rate(vlmoe_requests_total{ROUTES,status=~"5.."}[RATE])) or vector(0))'
                " / sum(rate(vlmoe_requests_total{ROUTES}[RATE]))"
            },
            "stat",
            4,
        ),
        Panel("Engines up", "percentunit", {"": "avg(vlmoe_engine_up{SELECT})"}, "stat", 4),
        Panel(
            "Models",
            "short",
            {
                "": "count by (model, model_id, space_id, dtype, device) (vlmoe_model_info{SELECT})"
                " * on (model) group_left max by (model) (vlmoe_model_parameters{SELECT})"
            },
            "table",
            24,
            "Parameters of each served checkpoint. Two lines for one model: a rollout is under way.",
        ),
    ],
    "Traffic": [
        Panel(
            "Requests by route",
            "reqps",
            {"{{route}}": "sum by (route) (rate(vlmoe_requests_total{ROUTES}[RATE]))"},
        ),
        Panel(
            "Answers by status",
            "reqps",
            {"{{status}}": "sum by (status) (rate(vlmoe_requests_total{ROUTES}[RATE]))"},
        ),
        Panel(
            "Callers that left",
            "reqps",
            {"{{route}}": "sum by (route) (rate(vlmoe_disconnects_total{SELECT}[RATE]))"},
            description="They hung up before the answer; what still waited was dropped.",
        ),
    ],
    "Latency": [
        Panel("Requests", "s", _quantiles("vlmoe_request_seconds", "", "ROUTES")),
        Panel(
            "By route, p99",
            "s",
            {
                "{{route}}": "histogram_quantile(0.99, sum by (le, route)"
                " (rate(vlmoe_request_seconds_bucket{ROUTES}[RATE])))"
            },
        ),
        Panel(
            "Where the time goes, mean",
            "s",
            {
                "decode and tokenise": "sum(rate(vlmoe_encode_seconds_sum{SELECT}[RATE]))"
                " / sum(rate(vlmoe_encode_seconds_count{SELECT}[RATE]))",
                "wait for a batch": "sum(rate(vlmoe_queue_seconds_sum{SELECT}[RATE]))"
                " / sum(rate(vlmoe_queue_seconds_count{SELECT}[RATE]))",
                "network": "sum(rate(vlmoe_forward_seconds_sum{SELECT}[RATE]))"
                " / sum(rate(vlmoe_forward_seconds_count{SELECT}[RATE]))",
            },
            stacked=True,
        ),
    ],
    "Queue": [
        Panel("Inputs that wait", "short", {"{{model}}": "sum by (model) (vlmoe_queue_depth{SELECT})"}),
        Panel("Wait for a batch", "s", _quantiles("vlmoe_queue_seconds", "model")),
        Panel(
            "Inputs without an answer",
            "reqps",
            {"{{model}} {{why}}": "sum by (model, why) (rate(vlmoe_dropped_total{SELECT}[RATE]))"},
            description="cancelled: the caller left. expired: the deadline passed. overloaded: refused with 429. "
            "unavailable: no engine. failed: the engine failed on it twice.",
        ),
    ],
    "Batches": [
        Panel(
            "Sequences of a batch",
            "short",
            {
                "{{model}} mean": "sum by (model) (rate(vlmoe_batch_jobs_sum{SELECT}[RATE]))"
                " / sum by (model) (rate(vlmoe_batch_jobs_count{SELECT}[RATE]))",
                **_quantiles("vlmoe_batch_jobs", "model"),
            },
        ),
        Panel(
            "Tokens of a batch",
            "short",
            {"{{le}}": "sum by (le) (increase(vlmoe_batch_tokens_bucket{SELECT}[RATE]))"},
            "heatmap",
        ),
        Panel(
            "What released batches",
            "ops",
            {"{{reason}}": "sum by (reason) (rate(vlmoe_batches_total{SELECT}[RATE]))"},
            stacked=True,
        ),
        Panel("Batch in the network", "s", _quantiles("vlmoe_forward_seconds", "model")),
        Panel(
            "Engine busy",
            "percentunit",
            {
                "{{model}}": "sum by (model) (rate(vlmoe_forward_seconds_sum{SELECT}[RATE]))"
                " / sum by (model) (vlmoe_engine_up{SELECT})"
            },
            description="The share of its time that an engine spends in the network.",
        ),
        Panel(
            "Browned out",
            "short",
            {"{{instance}} {{model}}": "vlmoe_brownout{SELECT}"},
            description="1 while a model answers in a cheaper routing mode because it is overloaded.",
        ),
        Panel(
            "Tokens",
            "short",
            {"{{model}} a second": "sum by (model) (rate(vlmoe_batch_tokens_sum{SELECT}[RATE]))"},
        ),
    ],
    "Experts": [
        Panel(
            "Load of experts",
            "short",
            {
                "{{pool}} {{expert}}": "sum by (pool, expert)"
                ' (rate(vlmoe_expert_tokens_total{SELECT,layer=~"$layer"}[RATE]))'
            },
            "rows",
            16,
            "Tokens a second that chose each expert: V of images, T of texts. Choose a layer above, or see their sum.",
        ),
        Panel(
            "Imbalance of ranks",
            "short",
            {
                "busiest / mean": "sum(rate(vlmoe_rank_imbalance_total{SELECT}[RATE]))"
                " / sum(rate(vlmoe_moe_layers_total{SELECT}[RATE]))",
                "sum of busiest / sum of mean": "sum(rate(vlmoe_busiest_rank_tokens_total{SELECT}[RATE]))"
                " / sum(rate(vlmoe_mean_rank_tokens_total{SELECT}[RATE]))",
                "mean / busiest": "sum(rate(vlmoe_rank_balancedness_total{SELECT}[RATE]))"
                " / sum(rate(vlmoe_moe_layers_total{SELECT}[RATE]))",
            },
            description="Of mixtures' layers, in tokens; 1 is even. With one rank it is always 1.",
        ),
        Panel(
            "Tokens of ranks",
            "short",
            {"{{model}} {{rank}}": "sum by (model, rank) (rate(vlmoe_rank_tokens_total{SELECT}[RATE]))"},
            description="Routed tokens a second that each rank computes.",
        ),
        Panel(
            "Between ranks",
            "Bps",
            {"{{model}}": "sum by (model) (rate(vlmoe_all_to_all_bytes_total{SELECT}[RATE]))"},
            description="Bytes of tokens on their way to experts on other ranks, and back.",
        ),
        Panel(
            "Memory of ranks",
            "bytes",
            {"{{instance}} {{model}} {{rank}}": "vlmoe_rank_memory_bytes{SELECT}"},
            description="Resident memory of each rank's process; pages that several share count in each.",
        ),
        Panel(
            "Experts moved",
            "short",
            {"{{model}}": "sum by (model) (increase(vlmoe_expert_moves_total{SELECT}[RATE]))"},
            width=12,
            description="Copies of experts that ranks received while serving (--rebalance on).",
        ),
        Panel(
            "Plans and refusals",
            "short",
            {
                "plans": "sum(increase(vlmoe_placement_plans_total{SELECT}[RATE]))",
                "{{why}}": "sum by (why) (increase(vlmoe_placement_refusals_total{SELECT}[RATE]))",
            },
            width=12,
            description="Why a plan was not followed. gain: too little of it. payback: not worth its moves in time. "
            "failed: weights could not be read.",
        ),
    ],
    "Cache and doors": [
        Panel(
            "Found in the cache",
            "percentunit",
            {
                "{{cache}}": "sum by (cache) (rate(vlmoe_cache_hits_total{SELECT}[RATE]))"
                " / (sum by (cache) (rate(vlmoe_cache_hits_total{SELECT}[RATE]))"
                " + sum by (cache) (rate(vlmoe_cache_misses_total{SELECT}[RATE])))"
            },
        ),
        Panel("Memory of the caches", "bytes", {"{{cache}}": "sum by (cache) (vlmoe_cache_bytes{SELECT})"}),
        Panel(
            "Connections refused",
            "reqps",
            {"{{why}}": "sum by (why) (rate(vlmoe_connections_refused_total{SELECT}[RATE]))"},
        ),
    ],
    "Engines and collections": [
        Panel("Engine up", "short", {"{{instance}} {{model}}": "vlmoe_engine_up{SELECT}"}),
        Panel(
            "Engines replaced",
            "short",
            {"{{instance}} {{model}}": "increase(vlmoe_engine_restarts_total{SELECT}[RATE])"},
            description="Died or hung, and started again. What was in it is run once more.",
        ),
        Panel(
            "Items of collections",
            "short",
            {"{{collection}}": "max by (collection) (vlmoe_collection_items{SELECT})"},
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": 24, "x": 0, "y": top},
                "panels": [],
            }
        )
        top, left, height = top + 1, 0, 0
        for panel in row:
            if left + panel.width > 24:
                top, left, height = top + height, 0, 0
            height = 4 if panel.kind == "stat" else _HEIGHT
            at = {"h": height, "w": panel.width, "x": left, "y": top}
            panels.append(_panel(panel, len(panels) + 1, at))
            left += panel.width
        top += height
    return {
        "title": "vlmoe",
        "uid": "vlmoe",
        "tags": ["vlmoe"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "templating": {
            "list": [
                {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus", "hide": 0},
                _variable("namespace", "Namespace", "label_values(vlmoe_model_info, namespace)"),
                _variable("job", "Job", 'label_values(vlmoe_model_info{namespace=~"$namespace"}, job)'),
                _variable("layer", "Layer", 'label_values(vlmoe_expert_tokens_total{job=~"$job"}, layer)'),
            ]
        },
        "annotations": {"list": []},
        "panels": panels,
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        # a scrape without Kubernetes has no namespace: nothing at all must match, too
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "refresh": 2,
        "sort": 1,
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }


def _panel(panel: Panel, number: int, at: dict[str, int]) -> dict[str, Any]:
    shape = {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series")
    targets = [
        {
            "refId": chr(ord("A") + i),
            "datasource": _SOURCE,
            "expr": _filled(query),
            "legendFormat": legend or "__auto",
            "format": shape,
            "instant": panel.kind == "table",
            "range": panel.kind != "table",
        }
        for i, (legend, query) in enumerate(panel.queries.items())
    ]
    drawn: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.kind == "timeseries":
        drawn["custom"] = {
            "fillOpacity": 30 if panel.stacked else 5,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "showPoints": "never",
        }
    return {
        "id": number,
        "type": "heatmap" if panel.kind == "rows" else panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": drawn, "overrides": []},
        "options": _OPTIONS.get("heatmap" if panel.kind == "rows" else panel.kind, {}),
        "targets": targets,
    }


_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"},
    "heatmap": {
        "calculate": False,
        "yAxis": {"axisPlacement": "left"},
        "color": {"mode": "scheme", "steps": 64},
    },
    "table": {"showHeader": True},
}


def _filled(query: str) -> str:
    return query.replace("SELECT", _SELECT).replace("ROUTES", _ROUTES).replace("RATE", "$__rate_interval")


def main() -> int:
    """Write or check."""
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" in sys.argv[1:]:
        return int(not FILE.is_file() or FILE.read_text() != text)
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
