"""Engine `vllm`: our network as a model of vLLM, for clusters that run it already.

    job -> inputs.py -> AsyncLLM -> its scheduler -> its workers: model.py (encoder, then heads as pooler) -> array

vLLM schedules, shares the model out over GPUs (tensor, data and expert parallelism) and runs attention and experts;
what is ours stays ours: embeddings, norms, heads and checkpoints. Its processes find the network by the entry point
`vllm.general_plugins`, which calls `plugin.register`. `settings.py`, `support.py` and `token_ids.py` need no vLLM.
"""

ARCHITECTURE = "VLMoE"
FORMAT = "vlmoe"
