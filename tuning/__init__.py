"""Tuning: compile kernels, run them on a device, measure them, and remember.

build      PrimFuncs into shared libraries, in worker processes
session    where code runs: this machine (a worker behind a loopback RPC server) or a remote board
measure    kernels, interleaved with a sentinel;  network  whole networks and the cost of a call
database   what was measured, and on which device;  results, network_store  what else is worth keeping
"""
