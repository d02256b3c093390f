"""One model over several hosts: how the processes of a group find each other, and what they say over the network.

    node 0:  front -> rank 0 (meeting.py) -> its other ranks         the doors
    node n:  agent.py -> its first rank -> its other ranks           no doors
             agent, ranks --link.py, wire.py--> rank 0               one port, `--rendezvous`
             every rank <--gloo or NCCL--> every rank                routed rows

Rank 0 takes in one agent a node, and then the node's ranks. The group lives as long as all of them: whoever is lost
ends it for all, rank 0's supervisor and the agents begin anew, and a number for each admission keeps what is left of
an earlier life out. Only this package and the collectives speak to other hosts, and nothing here reads a pickle.
"""
