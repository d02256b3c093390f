"""One program a server, and what they share; each runs in its server's environment, with nothing of the harness."""
