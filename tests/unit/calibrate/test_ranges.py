"""Calibration of a network: every range is of the values that the float network really has."""

from __future__ import annotations

import numpy as np
import pytest

from mpq_testing.lab import Lab
from tvm_mpq.calibrate import learn
from tvm_mpq.calibrate.ranges import calibrate
from tvm_mpq.errors import DataError, InvalidValueError
from tvm_mpq.numerics.affine import tensor_quant
from tvm_mpq.passes.lowering import StoredValue
from tvm_mpq.schema import FLOAT_BITS


def float_values(lab: Lab) -> dict[str, np.ndarray]:
    """Tensor name -> its values on all samples."""
    runs = [lab.values(lab.plan("fp32"), i) for i in range(len(lab.samples))]
    return {v.tensor: np.stack([r[v] for r in runs]) for v in runs[0] if v.bits == FLOAT_BITS}


def test_ranges_are_of_the_float_values(tiny: Lab) -> None:
    values = float_values(tiny)
    for name in tiny.graph.integer_tensors():
        x = values[name]
        wanted = [tensor_quant(float(x.min()), float(x.max()), q.bits) for q in tiny.ranges[name]]
        assert tiny.ranges[name] == wanted, name
        assert {8, *tiny.graph.activation_bits} == {q.bits for q in wanted}


def test_the_value_before_a_table_has_its_own_range(tiny: Lab) -> None:
    """hard_swish(v) = v * relu6(v + 3) / 6 is above -0.375; v itself is not."""
    pre, *_ = tiny.ranges["stem:pre"]
    post, *_ = tiny.ranges[next(n for n in tiny.graph.nodes if n.name == "stem").output]
    assert -pre.zero_point * pre.scale < -1 < -post.zero_point * post.scale
    assert "block:pre" not in tiny.ranges


def test_every_width_asked_for(tiny: Lab) -> None:
    steps = tiny.steps(learn.bare_plan(tiny.prepared, {}))
    found = calibrate(tiny.graph, tiny.interpreter, steps, tiny.samples, bits=(8, 4, 2))
    assert set(found) == set(tiny.ranges)
    assert all([q.bits for q in quants] == [8, 4, 2] for quants in found.values())


def test_progress_is_told(tiny: Lab) -> None:
    told: list[tuple[int, int, str]] = []
    steps = tiny.steps(tiny.plan("fp32"))
    calibrate(tiny.graph, tiny.interpreter, steps, tiny.samples, progress=lambda *what: told.append(what))
    assert told == [(i + 1, len(tiny.samples), "calibrating") for i in range(len(tiny.samples))]


def test_an_overflow_inside_names_the_tensor(tiny: Lab) -> None:
    huge = [{"x": np.full((1, 3, 6, 6), 3e38, np.float32)}]
    with pytest.raises(DataError, match=r"tensor '.+' holds NaN or infinity"):
        calibrate(tiny.graph, tiny.interpreter, tiny.steps(tiny.plan("fp32")), huge)


def test_unknown_method(tiny: Lab) -> None:
    with pytest.raises(InvalidValueError, match="observer"):
        calibrate(tiny.graph, tiny.interpreter, [], tiny.samples, method="best")


def test_layout_output_is_the_input_transposed(tiny: Lab) -> None:
    x = tiny.samples[0]["x"]
    layout = tiny.graph.nodes[0]
    found = tiny.values(tiny.plan("fp32"))[StoredValue(layout.output, FLOAT_BITS)]
    np.testing.assert_array_equal(found, x.transpose(0, 2, 3, 1))
