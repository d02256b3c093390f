"""From rows of panels to the JSON that Grafana imports."""

from collections.abc import Mapping, Sequence
from typing import Any

from panel import Panel

_SELECT = 'job=~"$job",namespace=~"$namespace"'
# probes and scrapes are no traffic
_ROUTES = f'{_SELECT},route!~"/healthz|/readyz|/metrics"'
_HEIGHT = 8
_SOURCE = {"type": "prometheus", "uid": "${source}"}


def dashboard(rows: Mapping[str, Sequence[Panel]]) -> dict[str, Any]:
    """The dashboard as Grafana imports it: rows by their titles."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in rows.items():
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
