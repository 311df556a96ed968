"""Steps for the interpreter, with kernels that need not be compiled for it.

What an operator computes at few bits is defined by its integers: an 8-bit kernel given the same codes gives the same
results, bit for bit, only more slowly. Where a table is predicted in part, sensitivity and the check of candidate plans
therefore wait for no kernel that nobody may ever run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from tvm_mpq.errors import NoKernelError
from tvm_mpq.kernels.registry import default_kernel
from tvm_mpq.passes.lowering import KernelStep, Step
from tvm_mpq.schema import W8A8, Conv2dWorkload
from tvm_mpq.tuning.compile.kernel_store import KernelStore


def emulated_on_int8(steps: Iterable[Step], store: KernelStore) -> list[Step]:
    """The same steps; those of fewer than 8 bits whose own kernel is not compiled yet run on the 8-bit one."""
    return [_emulated(step, store) for step in steps]


def _emulated(step: Step, store: KernelStore) -> Step:
    if not isinstance(step, KernelStep):
        return step
    request = step.kernel.request
    weighted = isinstance(request.workload, Conv2dWorkload)
    if not weighted or request.precision.is_float or request.precision == W8A8 or store.holds(step.kernel):
        return step
    try:
        wide = default_kernel(dataclasses.replace(request, precision=W8A8))
    except NoKernelError:
        return step
    operands = dataclasses.replace(step.operands, weight_bits=request.precision.weight_bits)
    return dataclasses.replace(step, kernel=wide, operands=operands)
