"""The Open Inference Protocol: `grpc_predict_v2_pb2` holds the messages."""
