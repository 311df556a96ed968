"""FixShapes: symbolic sizes of a caller's module become numbers before our other passes."""

from __future__ import annotations

import pytest
import tvm
from tvm import relax

from tvm_mpq.errors import InvalidValueError, UnsupportedModelError
from tvm_mpq.passes import FixShapes, pipeline
from tvm_mpq.schema import Plan
from tvm_mpq.targets import local_row, to_tvm_attrs


@pytest.fixture
def relu() -> tvm.IRModule:
    """main(x: [b, 3, h, h]) = relu(x)"""
    batch, height = (tvm.tirx.Var(name, "int64") for name in ("b", "h"))
    x = relax.Var("x", relax.TensorType((batch, 3, height, height), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(relax.op.nn.relu(x))
        builder.emit_func_output(y)
    return builder.get()


def shape(mod: tvm.IRModule) -> list[int]:
    return [int(d) for d in mod["main"].ret_ty.shape]


def test_symbols_become_the_given_sizes_and_a_second_run_changes_nothing(relu: tvm.IRModule) -> None:
    before = relu.script()
    fixed = FixShapes({"x": (2, 3, 8, 8)})(relu)
    assert shape(fixed) == [2, 3, 8, 8]
    assert relu.script() == before
    tvm.ir.assert_structural_equal(FixShapes()(fixed), fixed)


def test_what_is_open_or_wrong_is_refused(relu: tvm.IRModule) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"axes 2 \(h\) and 3 \(h\).*input_shapes=\{'x': \(1, 3, 224, 224\)\}"
    ):
        FixShapes()(relu)
    with pytest.raises(InvalidValueError, match="input 'x' is bx3xhxh in the model, which comes to 1x3x9x9"):
        FixShapes({"x": (1, 3, 8, 9)})(relu)


def test_the_pipeline_takes_them(relu: tvm.IRModule) -> None:
    plan = Plan(local_row().name, to_tvm_attrs(local_row(), 1), {}, {})
    assert [int(d) for d in pipeline(plan, input_shapes={"x": (1, 3, 4, 4)})(relu)["main"].params[0].ty.shape] == [
        1,
        3,
        4,
        4,
    ]
