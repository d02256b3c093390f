"""Serve VL-MoE checkpoints: visual question answering, retrieval and classification."""

__version__ = "0.1.0"
