"""Load for a running server, and a simulation of its queue.

python -m vlmoe_loadtests              an open-loop generator: goodput, percentiles, error classes, phases
python -m vlmoe_loadtests.kills        kills the engine again and again, and checks every answer
python -m vlmoe_loadtests.simulator    the server's queue beside other policies, in simulated time
locust -f loadtests/locustfile.py      users of the HTTP door
"""
