"""Version 1 of the protocol: `vlmoe_pb2` holds the messages, `vlmoe_pb2_grpc` the stub of the service."""
