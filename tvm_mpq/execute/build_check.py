"""Does a built library compute what its operators compute one by one?

Building fuses operators and hands LLVM larger loops than the interpreter's, and compilers have faults: TVM 0.27's LLVM
miscompiles some loop nests with remainders for AVX-512.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import VerificationError
from tvm_mpq.execute import network
from tvm_mpq.execute.accuracy import relative_error
from tvm_mpq.execute.emulate import emulated_on_int8
from tvm_mpq.execute.import_check import fp32_outputs
from tvm_mpq.execute.interpreter import Interpreter, Sample
from tvm_mpq.execute.prepare import Prepared
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.schema import Plan
from tvm_mpq.tuning.compile.kernel_store import KernelStore

FLOAT_TOLERANCE = 1e-3
"""Relative error of outputs that sums in another order leave at most."""

INTEGER_TOLERANCE = 0.1
"""The same where integers stand between: a float that differs in its last digit may round to the next one. Where
rounding itself costs more than that, steps are large, and the two may lie as far apart as the operators from fp32."""


def check_build(
    prepared: Prepared,
    interpreter: Interpreter,
    store: KernelStore,
    plan: Plan,
    codes: WeightCodes,
    sample: Sample,
    output: npt.NDArray[Any],
) -> None:
    """Compare the library's first output on a sample with the interpreter's.

    sample: by the graph's own input names. Outputs that are no finite floats are not compared.

    Raises
    ------
    VerificationError
        If they differ by more than arithmetic in another order can.
    """
    steps = emulated_on_int8(network.all_steps(prepared, plan, codes), store)
    interpreter.prepare(steps)
    wanted = interpreter.outputs(interpreter.run(steps, interpreter.load(sample), tag="built"))[0]
    if wanted.dtype.kind != "f" or not np.isfinite(wanted).all():
        return
    floats = all(plan.precision(name).is_float for name in plan.operators)
    allowed = FLOAT_TOLERANCE if floats else INTEGER_TOLERANCE
    error = relative_error(output, wanted)
    if not floats and error > allowed:
        allowed = max(allowed, relative_error(wanted, fp32_outputs(prepared, interpreter, sample)[0]))
    if not error <= allowed:
        raise VerificationError(
            f"the built library's first output is {error:.2g} of its size away from what its operators give one by one "
            f"(allowed: {allowed:.2g}), and is not kept: a compiler's fault; build for another --target, and report it"
        )
