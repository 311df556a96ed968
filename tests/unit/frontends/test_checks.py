from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends.checks import check_module, check_values, fingerprint, one_line


def test_nan_is_refused_by_name() -> None:
    weight = np.array([1, np.nan, -np.inf], np.float32)
    with pytest.raises(UnsupportedModelError, match=r"NaN in tensor 'fc.weight', 1 of 3 values"):
        check_values([("ok", np.ones(3, np.float32)), ("fc.weight", weight)])


def test_infinities_and_integers_pass() -> None:
    check_values(
        [
            ("table", np.array([[0.5, -np.inf], [0, 0]], np.float32)),
            ("bound", np.array(np.inf, np.float32)),
            ("ids", np.array([1, 2])),
            ("number", np.array(0.5, np.float64)),
        ]
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_are_refused(dtype: type) -> None:
    with pytest.raises(UnsupportedModelError, match=r"must be float32 \(got float"):
        check_values([("w", np.ones(2, dtype))])


def _module(weight: np.ndarray, name: str = "fc") -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, weight.shape[0]), str(weight.dtype)))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(relax.op.matmul(x, relax.const(weight)), name_hint=name)
        builder.emit_func_output(out)
    return builder.get()


def test_the_fingerprint_follows_weights_structure_and_names() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    other = weight.copy()
    other[1, 2] = np.nextafter(other[1, 2], 9)
    same = fingerprint(_module(weight))
    assert same == fingerprint(_module(weight.copy()))
    assert (
        len({same, fingerprint(_module(other)), fingerprint(_module(weight.T)), fingerprint(_module(weight, "g"))}) == 4
    )


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    code = (
        "import sys; sys.modules['torch'] = None  # TVM would import it, for seconds\n"
        "import numpy as np; from tvm import relax; from tvm_mpq.frontends.checks import fingerprint\n"
        "b = relax.BlockBuilder(); x = relax.Var('x', relax.TensorType((1, 2), 'float32'))\n"
        "with b.function('main', [x]):\n"
        "    with b.dataflow():\n"
        "        w = relax.const(np.arange(6, dtype=np.float32).reshape(2, 3))\n"
        "        out = b.emit_output(relax.op.matmul(x, w), name_hint='fc')\n"
        "    b.emit_func_output(out)\n"
        "print(fingerprint(b.get()))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert got.strip() == fingerprint(_module(np.arange(6, dtype=np.float32).reshape(2, 3)))


def test_check_module_refuses_run_time_shapes_and_half_floats() -> None:
    n = tvm.tirx.Var("n", "int64")
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((n, 2), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.nn.relu(x)))
    with pytest.raises(UnsupportedModelError, match="net: the shape of tensor 'x' is only known at run time"):
        check_module(builder.get(), "net")
    with pytest.raises(UnsupportedModelError, match="net: tensors must be float32"):
        check_module(_module(np.ones((2, 3), np.float16)), "net")


def test_one_line_finds_the_text() -> None:
    assert (
        one_line(ValueError("\nTraceback (most recent call last):\n  File x\nwhat happened\nmore")) == "what happened"
    )
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 500))) == 200
