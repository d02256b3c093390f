"""The gRPC door: our service, the Open Inference Protocol, health and reflection on one port."""
