"""What callers see: requests, answers, latency, and what the doors save or refuse."""

from panel import Panel, quantiles

NOW = [
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
]

TRAFFIC = [
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
]

LATENCY = [
    Panel("Requests", "s", quantiles("vlmoe_request_seconds", "", "ROUTES")),
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
]

CACHE_AND_DOORS = [
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
]
