"""Tuning: compile kernels, run them on a device, measure them, and remember.

compile    functions into shared libraries, in worker processes; compiled kernels kept on disk
devices    where code runs: this machine (a worker behind a loopback RPC server) or a pool of remote boards
measure    kernels and whole networks, interleaved with a sentinel; whether a kernel's numbers are right
database   what was measured, and on which device; what else is worth keeping
predictor  latencies of what was not measured, and which candidates are worth measuring

Within the room: `compile` <- `devices` <- `measure`; `database` and `predictor` know none of them.
"""
