"""What becomes of inputs: the queue, the batches, the engines that take them."""

from panel import Panel, quantiles

QUEUE = [
    Panel("Inputs that wait", "short", {"{{model}}": "sum by (model) (vlmoe_queue_depth{SELECT})"}),
    Panel("Wait for a batch", "s", quantiles("vlmoe_queue_seconds", "model")),
    Panel(
        "Inputs without an answer",
        "reqps",
        {"{{model}} {{why}}": "sum by (model, why) (rate(vlmoe_dropped_total{SELECT}[RATE]))"},
        description="cancelled: the caller left. expired: the deadline passed. overloaded: refused with 429. "
        "unavailable: no engine. failed: the engine failed on it twice.",
    ),
]

BATCHES = [
    Panel(
        "Sequences of a batch",
        "short",
        {
            "{{model}} mean": "sum by (model) (rate(vlmoe_batch_jobs_sum{SELECT}[RATE]))"
            " / sum by (model) (rate(vlmoe_batch_jobs_count{SELECT}[RATE]))",
            **quantiles("vlmoe_batch_jobs", "model"),
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
    Panel("Batch in the network", "s", quantiles("vlmoe_forward_seconds", "model")),
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
]

ENGINES_AND_COLLECTIONS = [
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
]
