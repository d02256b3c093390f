"""The Open Inference Protocol, whatever door it comes by."""
