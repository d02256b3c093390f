"""Serve VL-MoE checkpoints: visual question answering, retrieval and classification."""
