"""Package `vlmoe` of the protocol."""
