"""Weight codes chosen elsewhere reach the interpreter's and the library's kernels bit for bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from tvm import relax

from mpq_testing.definition import assert_steps_follow_the_definition, walk
from mpq_testing.lab import Lab
from tvm_mpq.errors import InvalidValueError
from tvm_mpq.execute import network
from tvm_mpq.execute.emulate import emulated_on_int8
from tvm_mpq.numerics.affine import quantize_weight
from tvm_mpq.numerics.weight_codes import QuantizedWeight, WeightCodes
from tvm_mpq.passes.lowering import KernelStep, StoredValue
from tvm_mpq.schema import FLOAT_BITS
from tvm_mpq.tuning.compile.kernel_store import KernelStore

PRECISION = "w4a8"


def other_codes(lab: Lab) -> WeightCodes:
    """Every code of every operator one step from where rounding to nearest puts it, and scales of its own."""
    found = {}
    for node in lab.graph.weighted():
        assert node.weight is not None
        codes, scales = quantize_weight(node.weight, 4)
        moved = np.where(codes > 0, codes - 1, codes + 1).astype(np.int8)
        found[node.name] = QuantizedWeight(moved, (scales * np.float32(1.25)).astype(np.float32), 4)
    return WeightCodes(found)


def defined(lab: Lab, steps: list) -> list[np.ndarray]:  # type: ignore[type-arg]
    held = walk(lab.graph, steps, lab.samples[0], lab._float_node)
    return [held[StoredValue(name, FLOAT_BITS)] for name in lab.graph.outputs]


def test_steps_carry_the_codes_to_the_kernels(tiny: Lab) -> None:
    plan, codes = tiny.plan(PRECISION), other_codes(tiny)
    steps = network.all_steps(tiny.prepared, plan, codes)
    given = {s.node: s.operands.codes for s in steps if isinstance(s, KernelStep) and s.operands.codes is not None}
    assert given == {name: weight for (name, _), weight in codes.items()}
    assert_steps_follow_the_definition(tiny.graph, steps, tiny.values_of(steps))
    nearest = tiny.values(plan)  # after the others, in one interpreter: their packed constants are not taken again
    name = StoredValue(tiny.graph.outputs[0], FLOAT_BITS)
    assert not np.array_equal(nearest[name], tiny.values_of(steps)[name])


def test_the_library_computes_with_the_codes(tiny: Lab) -> None:
    plan, codes = tiny.plan(PRECISION), other_codes(tiny)
    executable = network.compile_network(network.realize(tiny.prepared, plan, codes), tiny.prepared.tvm_target())
    machine = relax.VirtualMachine(executable, tvm.cpu())
    found = machine["main"](*[tvm.runtime.tensor(x) for x in tiny.samples[0].values()])
    found = [found] if not isinstance(found, (list, tuple, tvm.ir.Array)) else found
    wanted = defined(tiny, network.all_steps(tiny.prepared, plan, codes))
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got.numpy(), want)


def test_an_8_bit_kernel_takes_the_same_codes(tiny: Lab, tmp_path_factory: pytest.TempPathFactory) -> None:
    steps = network.all_steps(tiny.prepared, tiny.plan(PRECISION), other_codes(tiny))
    store = KernelStore(tmp_path_factory.mktemp("empty"), tiny.prepared.tvm_target_attrs)
    wide = emulated_on_int8(steps, store)
    assert wide != steps
    one, other = tiny.values_of(steps), tiny.values_of(wide)
    for value in one:
        np.testing.assert_array_equal(other[value], one[value])


def test_codes_of_other_bits_and_operators_in_fp32_are_left_alone(tiny: Lab) -> None:
    codes = other_codes(tiny)
    for precision in ("w8a8", "fp32"):
        steps = network.all_steps(tiny.prepared, tiny.plan(precision), codes)
        assert all(s.operands.codes is None for s in steps if isinstance(s, KernelStep))


def test_codes_of_another_network_are_refused(tiny: Lab) -> None:
    (weight, *_) = other_codes(tiny).values()
    with pytest.raises(InvalidValueError, match="'stranger', which the network lacks"):
        network.realize(tiny.prepared, tiny.plan(PRECISION), WeightCodes({"stranger": weight}))
    name = tiny.names[0]
    wrong = dataclasses.replace(weight, codes=weight.codes[..., :1].copy())
    with pytest.raises(InvalidValueError, match="shape"):
        network.realize(tiny.prepared, tiny.plan(PRECISION), WeightCodes({name: wrong}))
