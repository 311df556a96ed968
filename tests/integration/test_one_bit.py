"""`build --uniform w1a1` and `w1a2` from end to end: the library is the definition of its plan, the ends keep 8 bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mpq_testing.definition import assert_steps_follow_the_definition, is_integer
from mpq_testing.lab import Lab, run_strangers
from mpq_testing.offered import few_bits
from tvm_mpq.errors import NoKernelError
from tvm_mpq.passes.lowering import KernelStep
from tvm_mpq.pipeline import Options, build_network
from tvm_mpq.schema import Conv2dWorkload, Precision

GetLab = Callable[[str], Lab]


@pytest.mark.parametrize("precision", ["w1a1", pytest.param("w1a2", marks=pytest.mark.slow)])
def test_a_uniform_build_is_the_definition_of_its_plan(
    precision: str, lab: GetLab, sharing: Callable[[Path], Path], tmp_path: Path
) -> None:
    network = lab("residual")
    options = Options(network.model, db=sharing(tmp_path / "db.sqlite"), verify_import=False)
    few = Precision.parse(precision)
    if not few_bits([few]):
        with pytest.raises(NoKernelError, match=rf"no operator has a kernel for {precision} on this target"):
            build_network(options, uniform=precision, keep=("first", "last"))
        return
    result = build_network(options, uniform=precision, keep=("first", "last"))
    names = network.names
    assert [result.plan.operators[n] for n in (names[0], names[-1])] == ["w8a8", "w8a8"]
    steps = network.steps(result.plan)
    served = [s for s in steps if isinstance(s, KernelStep) and isinstance(s.kernel.request.workload, Conv2dWorkload)]
    at_few = [s for s in served if s.kernel.request.precision == few]
    assert len(at_few) >= 2 and {s.inputs[0].bits for s in at_few} == {few.activation_bits}
    assert is_integer(steps)
    assert_steps_follow_the_definition(network.graph, steps, network.values(result.plan))
    inputs, outputs = tmp_path / "inputs.npz", tmp_path / "outputs.npz"
    np.savez(inputs, *network.samples[0].values())
    job = {"library": str(result.folder / "model.so"), "inputs": str(inputs), "outputs": str(outputs)}
    (got,) = run_strangers([job], tmp_path)
    for built, wanted in zip(got, network.define(result.plan), strict=True):
        np.testing.assert_array_equal(built, wanted)
