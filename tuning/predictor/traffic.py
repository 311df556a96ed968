"""What time is made of: the work that a kernel's row states, and the bytes that this machine's caches let through."""

from __future__ import annotations

from tvm_mpq.kernels.work import Passes, Work
from tvm_mpq.tuning.predictor.entry import Entry, MachineFacts

TERMS = ("products", "loads", "stores", "tiles", "staged_bytes", "near_bytes", "l2_bytes", "far_bytes")
"""What time is made of; a call's own cost comes on top.

near_bytes: activations read and written once; l2_bytes: read again from the second-level cache; far_bytes: operands
beyond that cache; the others as `Work` says.
"""


def terms(entry: Entry) -> tuple[float, ...]:
    """The counts that `TERMS` names, of an entry that is `predictable`."""
    work, machine = entry.work, entry.machine
    return (
        work.products,
        work.loads,
        work.stores,
        work.tiles,
        work.staged_bytes,
        work.in_bytes + work.residual_bytes + work.out_bytes,
        _l2_bytes(work, machine),
        max(0.0, work.moved_bytes - machine.l2_bytes),
    )


def _l2_bytes(work: Work, machine: MachineFacts) -> float:
    """Where nothing passes twice, what the first-level cache does not hold."""
    if not work.passes:
        return max(0.0, work.moved_bytes - machine.l1d_bytes)
    return sum(_read_again(operand, machine) for operand in work.passes)


def _read_again(operand: Passes, machine: MachineFacts) -> float:
    """Half the first-level cache is what the operand has there: other operands pass beside it."""
    stays = operand.held_bytes <= machine.l1d_bytes / 2
    return operand.bytes if stays else operand.bytes * operand.times
