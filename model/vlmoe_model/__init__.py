"""The VL-MoE network, its inputs and its checkpoints.

`config`, `presets`, `inputs`, `images`, `tokenizer`, `processor` and `errors` import no torch, so a process that only
prepares inputs stays small; everything else does.
"""
