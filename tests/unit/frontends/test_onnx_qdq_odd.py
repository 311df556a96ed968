"""Quantized files as few quantizers write them: types, constants and scales are found where they are said.

In one file: short rows of one table of oddities, which share how a file is written and compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends import load_model
from tvm_mpq.schema import TensorQuant

node = helper.make_node
Run = Callable[..., list[np.ndarray]]
Inputs = dict[str, np.ndarray]
MICROSOFT = "com.microsoft"
SCALE = np.float32(0.02)
OUT = ["os", "oz"]


def save(
    path: Path, nodes: list[Any], inputs: Inputs, constants: dict[str, Any], outputs: dict[str, int] | None = None
) -> Path:
    """outputs: name -> element type; without, `y` of float32."""
    given = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in inputs.items()
    ]
    results = [helper.make_tensor_value_info(n, t, None) for n, t in (outputs or {"y": TensorProto.FLOAT}).items()]
    held = [numpy_helper.from_array(np.asarray(x), n) for n, x in constants.items()]
    graph = helper.make_graph(nodes, "net", given, results, held)
    domains = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10), str(path))
    return path


def on_grid(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers that 8 bits of SCALE hold as they are."""
    return (rng.integers(-100, 101, shape) * SCALE).astype(np.float32)


@pytest.fixture
def agrees(tmp_path: Path, run: Run) -> Callable[..., Any]:
    """The import computes what ONNX's evaluator does, on inputs that its roundings leave alone; what was loaded."""

    def check(nodes: list[Any], inputs: Inputs, constants: dict[str, Any], **options: Any) -> Any:
        path = save(tmp_path / "net.onnx", nodes, inputs, constants, **options)
        loaded = load_model(path, batch=None)
        wanted = ReferenceEvaluator(str(path)).run(None, inputs)
        for got, want in zip(run(loaded, *inputs.values()), wanted, strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=1e-5, atol=1e-5)
        return loaded

    return check


@pytest.mark.parametrize(("name", "zero"), [("INT8", 128), ("UINT8", 0), ("INT16", None)])
def test_a_rounding_without_zero_has_the_type_that_it_names(
    agrees: Any, rng: np.random.Generator, name: str, zero: int | None
) -> None:
    """Ends of the type are among the results."""
    x = np.concatenate([on_grid(rng, 1, 8), np.float32([[-2e3, 2e3]])], axis=1)
    if name == "UINT8":
        x = np.abs(x)
    kind = TensorProto.DataType.Value(name)
    loaded = agrees(
        [node("QuantizeLinear", ["x", "s"], ["y"], output_dtype=kind)], {"x": x}, {"s": SCALE}, outputs={"y": kind}
    )
    found = list(loaded.stored.tensors.values())
    assert found == ([] if zero is None else [TensorQuant(8, float(SCALE), zero)])


@pytest.mark.parametrize(
    ("dtype", "found"), [(np.int8, [128]), (np.uint8, [0]), (np.int32, []), (np.int16, [])]
)  # fmt: skip
def test_integers_from_outside_have_the_type_of_the_input(
    agrees: Any, rng: np.random.Generator, dtype: type, found: list[int]
) -> None:
    x = rng.integers(np.iinfo(dtype).min // 2, np.iinfo(dtype).max // 2, (1, 8)).astype(dtype)
    loaded = agrees([node("DequantizeLinear", ["x", "s"], ["r"]), node("Neg", ["r"], ["y"])], {"x": x}, {"s": SCALE})
    ranges = {(q.scale, q.zero_point) for q in loaded.stored.tensors.values()}  # of the reals, and of the integers
    assert ranges == {(scale, zero) for scale in (1.0, float(SCALE)) for zero in found}


def product(weight: list[Any]) -> list[Any]:
    """x, rounded, times `w`, which `weight` makes."""
    return [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        *weight,
        node("MatMul", ["xd", "w"], ["y"], name="fc"),
    ]


def test_weights_without_zero_are_the_files_own(agrees: Any, rng: np.random.Generator) -> None:
    codes = rng.integers(-127, 128, (8, 4)).astype(np.int8)
    given = {"s": SCALE, "z": np.uint8(128), "q": codes, "ws": np.float32(0.01)}
    loaded = agrees(product([node("DequantizeLinear", ["q", "ws"], ["w"])]), {"x": on_grid(rng, 3, 8)}, given)
    assert [tuple(s) for s in loaded.stored.weights.values()] == [(float(np.float32(0.01)),)]


def test_integers_may_be_read_with_two_scales(agrees: Any, rng: np.random.Generator) -> None:
    nodes = product([node("DequantizeLinear", ["q", "s1"], ["w"]), node("DequantizeLinear", ["q", "s2", "z2"], ["v"])])
    nodes += [node("MatMul", ["xd", "v"], ["y2"])]
    given = {"s": SCALE, "z": np.uint8(128), "q": rng.integers(-127, 128, (8, 4)).astype(np.int8)}
    given |= {"s1": np.float32(0.01), "s2": np.float32(0.03), "z2": np.int8(3)}
    agrees(nodes, {"x": on_grid(rng, 3, 8)}, given, outputs={"y": TensorProto.FLOAT, "y2": TensorProto.FLOAT})


COMPUTED = {
    "scale_of_a_number": ([node("Constant", [], ["ws"], value_float=0.01)], {}, {}),
    "scale_behind_identity": (
        [node("Constant", [], ["c"], value_float=0.01), node("Identity", ["c"], ["ws"])],
        {},
        {},
    ),
    "scale_divided": ([node("Div", ["a", "b"], ["ws"])], {"a": np.float32(1), "b": np.float32(100)}, {}),
    "integers_turned": (
        [node("Transpose", ["t"], ["q"])],
        {"t": np.arange(-16, 16, dtype=np.int8).reshape(4, 8), "ws": np.float32([0.01, 0.02, 0.03, 0.04])},
        {"axis": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "constants", "attributes"), COMPUTED.values(), ids=COMPUTED)
def test_what_is_computed_of_constants_is_constant(
    agrees: Any, rng: np.random.Generator, nodes: list[Any], constants: dict[str, Any], attributes: dict[str, int]
) -> None:
    given = {"s": SCALE, "z": np.uint8(128), **constants}
    if "t" not in constants:
        given["q"] = rng.integers(-127, 128, (8, 4)).astype(np.int8)
    weight = [*nodes, node("DequantizeLinear", ["q", "ws"], ["w"], **attributes)]
    loaded = agrees(product(weight), {"x": on_grid(rng, 3, 8)}, given)
    assert loaded.stored.weights


def test_weights_that_the_graph_rounds_to_four_bits(agrees: Any, rng: np.random.Generator) -> None:
    """In blocks of four, whose integers reach both ends."""
    z = np.zeros((2, 4), ml_dtypes.int4)
    given = {"s": SCALE, "z": np.uint8(128), "f": rng.normal(0, 0.3, (8, 4)).astype(np.float32), "wz": z}
    given["ws"] = rng.uniform(0.02, 0.05, (2, 4)).astype(np.float32)
    blocks = {"axis": 0, "block_size": 4}
    weight = [
        node("QuantizeLinear", ["f", "ws", "wz"], ["q"], **blocks),
        node("DequantizeLinear", ["q", "ws", "wz"], ["w"], **blocks),
    ]
    agrees(product(weight), {"x": on_grid(rng, 3, 8)}, given)


def test_activations_of_four_bits(agrees: Any, rng: np.random.Generator) -> None:
    given = {"s": np.float32(0.5), "z": np.array(8, ml_dtypes.uint4), "w": rng.normal(0, 1, (8, 4)).astype(np.float32)}
    x = (rng.integers(-8, 8, (3, 8)) / 2).astype(np.float32)
    assert not agrees(product([]), {"x": x}, given).stored.tensors


@pytest.mark.parametrize("zero", [[], ["wz"]])
def test_numbers_of_eight_bit_floats_are_refused(tmp_path: Path, rng: np.random.Generator, zero: list[str]) -> None:
    kind = ml_dtypes.float8_e4m3fn
    given = {"s": SCALE, "z": np.uint8(128), "q": rng.normal(0, 1, (8, 4)).astype(kind), "ws": np.float32(0.1)}
    given |= {"wz": np.zeros((), kind)} if zero else {}
    nodes = product([node("DequantizeLinear", ["q", "ws", *zero], ["w"])])
    with pytest.raises(UnsupportedModelError, match=r"^net.onnx: float8_e4m3fn numbers are not supported; [^\n]*$"):
        load_model(save(tmp_path / "net.onnx", nodes, {"x": on_grid(rng, 3, 8)}, given))


@pytest.mark.parametrize("zero", [0, 100, 255])
@pytest.mark.parametrize("as_integers", [False, True])
def test_results_of_the_network_are_cut_as_in_the_file(
    tmp_path: Path, run: Run, rng: np.random.Generator, zero: int, as_integers: bool
) -> None:
    """At fp32 too: beyond either end of the last rounding's range, nothing comes out."""
    given = {"s": SCALE, "z": np.uint8(128), "w": rng.normal(0, 9, (8, 4)).astype(np.float32)}
    given |= {"os": np.float32(0.05), "oz": np.uint8(zero)}
    name = "yq" if as_integers else "y"
    nodes = product([])[:-1] + [
        node("MatMul", ["xd", "w"], ["p"]),
        node("QuantizeLinear", ["p", *OUT], ["yq"]),
        node("DequantizeLinear", ["yq", *OUT], ["y"]),
    ]
    kind = TensorProto.UINT8 if as_integers else TensorProto.FLOAT
    inputs = {"x": on_grid(rng, 3, 8)}
    path = save(tmp_path / "net.onnx", nodes, inputs, given, {name: kind})
    (got,), (want,) = run(load_model(path, batch=None), inputs["x"]), ReferenceEvaluator(str(path)).run(None, inputs)
    assert (want == want.min()).sum() > 1 or (want == want.max()).sum() > 1
    step = 1 if as_integers else 0.05
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=0, atol=0.51 * step)


# Operators of ONNX Runtime, which ONNX's evaluator does not know.

A = ["q", "s", "z"]


def microsoft(tmp_path: Path, run: Run, operator: Any, x: np.ndarray, constants: dict[str, Any]) -> np.ndarray:
    """`operator` reads q and gives r; the real tensor that r stands for."""
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), operator, node("DequantizeLinear", ["r", *OUT], ["y"])]
    given = {"s": SCALE, "z": np.uint8(128), "os": np.float32(0.05), "oz": np.uint8(128), **constants}
    (got,) = run(load_model(save(tmp_path / "net.onnx", nodes, {"x": x}, given), batch=None), x)
    return got


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_a_bias_of_qgemm_has_the_steps_of_its_products(
    tmp_path: Path, run: Run, rng: np.random.Generator, alpha: float
) -> None:
    """alpha included."""
    codes, bias = rng.integers(-127, 128, (8, 4)).astype(np.int8), rng.integers(-900, 900, 4).astype(np.int32)
    operator = node("QGemm", [*A, "w", "ws", "wz", "b", *OUT], ["r"], domain=MICROSOFT, alpha=alpha)
    x = on_grid(rng, 3, 8)
    given = {"w": codes, "ws": np.float32(0.01), "wz": np.int8(0), "b": bias}
    want = alpha * (np.rint(x / SCALE) @ codes.astype(np.float64) + bias) * SCALE * np.float32(0.01)
    np.testing.assert_allclose(microsoft(tmp_path, run, operator, x, given), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("opset", "axis", "axes"), [(11, 1, (1, 2)), (12, -1, (2,)), (13, 1, (1,)), (13, -1, (2,))])
def test_a_softmax_is_of_the_opset_that_it_names(
    tmp_path: Path, run: Run, rng: np.random.Generator, opset: int, axis: int, axes: tuple[int, ...]
) -> None:
    """Before 13, over all axes from `axis` on."""
    operator = node("QLinearSoftmax", [*A, *OUT], ["r"], domain=MICROSOFT, axis=axis, opset=opset)
    x = on_grid(rng, 2, 3, 4)
    e = np.exp(x.astype(np.float64))
    got = microsoft(tmp_path, run, operator, x, {})
    np.testing.assert_allclose(got, e / e.sum(axis=axes, keepdims=True), rtol=1e-5, atol=1e-6)


def test_a_choice_of_integers(tmp_path: Path, run: Run, rng: np.random.Generator) -> None:
    other, which = rng.integers(0, 256, (2, 4)).astype(np.uint8), np.array([True, False, True, False])
    operator = node("QLinearWhere", ["c", *A, "k", "ks", "kz", *OUT], ["r"], domain=MICROSOFT)
    x = on_grid(rng, 2, 4)
    given = {"c": which, "k": other, "ks": np.float32(0.03), "kz": np.uint8(99)}
    want = np.where(which, x, (other.astype(np.float32) - 99) * np.float32(0.03))
    np.testing.assert_allclose(microsoft(tmp_path, run, operator, x, given), want, rtol=1e-5, atol=1e-6)


def test_pads_that_windows_overhang_are_not_averaged(tmp_path: Path, run: Run, rng: np.random.Generator) -> None:
    """ONNX Runtime counts them in this operator alone."""
    sizes = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}
    for counted in (0, 1):
        operator = node(
            "QLinearAveragePool", [*A, *OUT], ["r"], domain=MICROSOFT, count_include_pad=counted, **sizes
        )  # fmt: skip
        if counted:
            with pytest.raises(UnsupportedModelError, match=r"unknown operator com\.microsoft::QLinearAveragePool"):
                microsoft(tmp_path, run, operator, on_grid(rng, 1, 2, 6, 6), {})
        else:
            assert microsoft(tmp_path, run, operator, on_grid(rng, 1, 2, 6, 6), {}).shape == (1, 2, 4, 4)


# Scales that are chosen at run time.

DYNAMIC = [
    node("DynamicQuantizeLinear", ["x"], ["xq", "s", "z"]),
    node("MatMulInteger", ["xq", "w", "z", "wz"], ["sums"], name="fc"),
    node("Cast", ["sums"], ["real"], to=TensorProto.FLOAT),
]


def dynamic(rng: np.random.Generator) -> tuple[Inputs, dict[str, Any]]:
    x = rng.standard_normal((2, 6)).astype(np.float32)
    given = {
        "w": rng.integers(0, 256, (6, 3)).astype(np.uint8),
        "wz": np.uint8(99),
        "ws": np.float32([0.01, 0.02, 0.03]),
    }
    return {"x": x}, given | {"shape": np.array([3, 2]), "none": np.uint8(0)}


MULTIPLIED = {
    "together": [node("Mul", ["ws", "s"], ["both"]), node("Mul", ["both", "real"], ["y"])],
    "one_by_one": [node("Mul", ["real", "ws"], ["half"]), node("Mul", ["half", "s"], ["y"])],
    "moved_between": [
        node("Mul", ["real", "ws"], ["half"]),
        node("Transpose", ["half"], ["turned"]),
        node("Mul", ["turned", "s"], ["back"]),
        node("Transpose", ["back"], ["y"]),
    ],
}


@pytest.mark.parametrize("nodes", MULTIPLIED.values(), ids=MULTIPLIED)
def test_sums_are_multiplied_by_the_scale_once(
    tmp_path: Path, run: Run, rng: np.random.Generator, nodes: list[Any]
) -> None:
    inputs, given = dynamic(rng)
    (got,) = run(load_model(save(tmp_path / "net.onnx", [*DYNAMIC, *nodes], inputs, given), batch=None), inputs["x"])
    want = inputs["x"] @ ((given["w"].astype(np.float32) - 99) * given["ws"])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_two_factors_may_have_scales_chosen_at_run_time(tmp_path: Path, run: Run, rng: np.random.Generator) -> None:
    nodes = [
        *(node("DynamicQuantizeLinear", [n], [f"{n}q", f"{n}s", f"{n}z"]) for n in "ab"),
        node("MatMulInteger", ["aq", "bq", "az", "bz"], ["sums"]),
        node("Cast", ["sums"], ["real"], to=TensorProto.FLOAT),
        node("Mul", ["as", "bs"], ["both"]),
        node("Mul", ["real", "both"], ["y"]),
    ]
    a, b = rng.standard_normal((2, 6)).astype(np.float32), rng.standard_normal((6, 3)).astype(np.float32)
    (got,) = run(load_model(save(tmp_path / "net.onnx", nodes, {"a": a, "b": b}, {}), batch=None), a, b)
    np.testing.assert_allclose(got, a @ b, rtol=1e-5, atol=1e-5)


MISUSED = {
    "never_multiplied": ([*DYNAMIC, node("Mul", ["real", "ws"], ["y"])], r"result 'y' holds"),
    "twice": (
        [*DYNAMIC, node("Mul", ["real", "s"], ["once"]), node("Mul", ["once", "s"], ["y"])],
        r"result 'y' holds",
    ),
    "added": (
        [*DYNAMIC, node("Mul", ["real", "s"], ["once"]), node("Add", ["once", "s"], ["y"], name="a")],
        r"Add \(node 'a'\) reads",
    ),
    "given_out": ([DYNAMIC[0], node("Identity", ["s"], ["y"])], r"result 'y' holds"),
    "rounded": (
        [*DYNAMIC, node("QuantizeLinear", ["real", "ws"], ["y8"]), node("DequantizeLinear", ["y8", "ws"], ["y"])],
        r"a quantized operator reads",
    ),
    "another_zero": (
        [DYNAMIC[0], node("MatMulInteger", ["xq", "w", "none", "wz"], ["sums"]), node("Neg", ["sums"], ["y"])],
        r"scales of MatMulInteger .* are computed",
    ),
    "scale_of_others": (
        [DYNAMIC[0], node("DequantizeLinear", ["w", "s", "z"], ["y"])],
        r"scales of DequantizeLinear .* are computed",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "message"), MISUSED.values(), ids=MISUSED)
def test_a_scale_chosen_at_run_time_is_not_read_otherwise(
    tmp_path: Path, rng: np.random.Generator, nodes: list[Any], message: str
) -> None:
    inputs, given = dynamic(rng)
    with pytest.raises(UnsupportedModelError, match=rf"^net.onnx: {message}[^\n]*$"):
        load_model(save(tmp_path / "net.onnx", nodes, inputs, given), batch=None)
