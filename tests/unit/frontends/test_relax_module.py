from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends import load_model

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4) / 8


def _module(batch: object = 2, weight: np.ndarray = WEIGHT, keep: bool = True) -> tvm.IRModule:
    """x @ fc.weight.T, the weight as a constant or as a parameter with its value in the attribute `params`."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((batch, 4), "float32"))
    w = relax.Var("fc.weight", relax.TensorType((3, 4), "float32"))
    with builder.function("main", [x, w] if keep else [x]):
        with builder.dataflow():
            source = w if keep else relax.const(weight)
            out = builder.emit_output(builder.emit(relax.op.matmul(x, relax.op.permute_dims(source))))
        builder.emit_func_output(out)
    mod = builder.get()
    if keep:
        mod["main"] = mod["main"].with_attrs({"num_input": 1, "params": [tvm.runtime.tensor(weight)]})
    return mod


@pytest.mark.parametrize("keep", [True, False])
def test_parameters_are_bound_and_the_callers_module_stays(keep, run) -> None:
    mod = _module(keep=keep)
    before = mod.script(show_meta=True)
    loaded = load_model(mod)
    assert mod.script(show_meta=True) == before
    assert loaded.input_names == ("x",)
    assert len(loaded.mod["main"].params) == 1
    assert set(loaded.mod["main"].attrs.keys()) <= {"global_symbol"}
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(run(loaded, x)[0], x @ WEIGHT.T)  # sums of few eighths are exact


def test_an_operator_is_called_after_its_parameter(operators) -> None:
    found = operators(load_model(_module()))
    assert [name for name, op in found.items() if op == "relax.matmul"] == ["fc"]


def test_a_symbolic_batch_is_fixed_and_another_axis_refused() -> None:
    loaded = load_model(_module(tvm.tirx.Var("n", "int64")), batch=5)
    assert [int(d) for d in loaded.mod["main"].ret_ty.shape] == [5, 3]
    assert loaded.notes == ("dynamic batch axis of input 'x' fixed to 5",)
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, tvm.tirx.Var("n", "int64")), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.nn.relu(x)))
    with pytest.raises(UnsupportedModelError, match="input 'x' has dynamic axis 1"):
        load_model(builder.get())


def test_a_module_without_a_relax_main_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"function `main` \(got no functions\)"):
        load_model(tvm.IRModule({}))


def test_non_finite_constants_are_refused_at_their_operator() -> None:
    weight = WEIGHT.copy()
    weight[0, 0] = np.nan
    for keep in (True, False):
        with pytest.raises(UnsupportedModelError, match="NaN in tensor"):
            load_model(_module(weight=weight, keep=keep))


def test_anything_else_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"a model is a path .* \(got int\)"):
        load_model(3)
    assert load_model(_module()).name == "main"
