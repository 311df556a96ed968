"""Peers: other engines on the same network, each in a process of its own, timed in turns with ours.

`compare` builds and measures; `bench` is what the command line calls; one module an engine. Nothing here is imported by
the rest of the project, and an engine's Python need not have the project installed.
"""
