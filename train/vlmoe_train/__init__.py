"""Train VL-MoE checkpoints that `vlmoe serve` loads."""
