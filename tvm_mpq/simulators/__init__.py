"""Machines that are not here: what an operator at some bits takes on them, by a formula or a simulator's model.

simulator   the contract: operations in, cycles and energies out
machines    the machines by the names that `--latency-source` takes
source      tables filled by a simulator, kept in the database marked `simulated`
movement    what operators without weights move
mpic        a RISC-V microcontroller, by published multiply-adds a cycle
zigzag      accelerators by ZigZag, in zigzag_worker;  scalesim  systolic arrays by SCALE-Sim, in scalesim_worker
child       a tool in a process of its own;  nests  loops of a layer
"""
