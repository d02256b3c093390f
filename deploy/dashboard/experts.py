"""What experts and ranks have to do."""

from panel import Panel

EXPERTS = [
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
]
