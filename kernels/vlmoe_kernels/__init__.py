"""Tensor operations of a modality- and expert-routed Transformer. Knows tensors, not models."""
