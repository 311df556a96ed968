"""Networks that run: from a model to an annotated graph, to compiled libraries, to outputs and times.

prepare      a model in any form, made ready for selection
interpreter  runs lowered steps one by one, on a host_runtime or a board_runtime;  emulate  few bits on 8-bit kernels
network      a plan compiled and run as a library;  build_cache  each plan built, timed and remembered once
accuracy     how good outputs are;  call_overhead  what the virtual machine adds to each kernel
"""
