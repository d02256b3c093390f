"""Checkpoints: directories of safetensors and JSON, never pickle.

    header       what one safetensors file declares, checked before anything is read
    directory    what a checkpoint directory holds: `open_directory`, `resolve`
    fingerprint  `model_id` and `space_id`
    weights      torch: `save`, `load_state`
    delta        torch: `save_delta`, for the tensors that fine-tuning changed

Only the last two import torch.
"""
