"""The server's queue in simulated time, beside the policies of other servers, on the same requests and engine.

workload -> policy (add, next) -> simulate: one engine whose batches take what the cost model says -> Report

Nothing here sleeps or looks at a clock, so the figures are the same on every machine.
"""
