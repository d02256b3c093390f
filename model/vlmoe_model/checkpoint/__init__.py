"""Checkpoints: directories of safetensors and JSON, never pickle.

    files        names of the files, and reading the small ones
    header       what one safetensors file declares, checked before anything is read
    experts      which tensors hold one expert a row
    directory    what a checkpoint directory holds: `open_directory`, `resolve`
    fingerprint  `model_id` and `space_id`
    replace      a directory that changes all at once
    weights      torch: `save`, `load_state`
    delta        torch: `save_delta`, for the tensors that fine-tuning changed

Only the last two import torch.
"""
