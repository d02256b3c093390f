"""Engines: what computes a batch, each in a process of its own.

    supervisor -> child -> socket, shared memory -> worker -> engine

An engine is a function `load(EngineOptions) -> Engine` (see `base.py`), named here as `module:function` so
that only the worker process imports it: this table stays importable without torch.
"""

ENGINES: dict[str, str] = {
    "torch": "vlmoe_serve.engine.torch_engine:load",
    "vllm": "vlmoe_serve.engine.vllm.engine:load",
}
# for checkpoints that share weights
FAMILY = "vlmoe_serve.engine.family_engine:load"
