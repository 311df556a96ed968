"""What happens to ONNX graphs before TVM reads them: functions, versions, half floats, constants, branches.

In one file: each rewriting is tried by the same evaluator on a few nodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends import Loaded, load_model

node = helper.make_node
rng = np.random.default_rng(7)
X = rng.standard_normal((1, 4, 6, 8), dtype=np.float32)
W = rng.standard_normal((4, 4, 3, 3), dtype=np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def model_of(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any] | None = None,
    opset: int = 17,
    shape: tuple[int, ...] = X.shape,
    outputs: tuple[str, ...] = ("y",),
    functions: tuple[onnx.FunctionProto, ...] = (),
    domains: tuple[str, ...] = (),
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info(o, dtype, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(w), n) for n, w in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=8)


@pytest.fixture
def imported(tmp_path: Path) -> Any:
    def imported(model: onnx.ModelProto) -> Loaded:
        onnx.save(model, str(tmp_path / "net.onnx"))
        return load_model(tmp_path / "net.onnx")

    return imported


def operators_of(loaded: Loaded) -> list[str]:
    calls = (b.value for block in loaded.mod["main"].body.blocks for b in block.bindings)
    return [str(c.op.name).removeprefix("relax.") for c in calls if hasattr(c, "op")]


def test_a_local_function_is_what_it_holds_and_not_what_it_is_called(imported: Any, run: Any) -> None:
    body = [node("Add", ["a", "a"], ["b"]), node("Relu", ["b"], ["c"])]
    softmax = helper.make_function("pkg.layers", "Softmax", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
    call = node("Softmax", ["x"], ["y"], domain="pkg.layers")
    loaded = imported(model_of([call], functions=(softmax,), domains=("pkg.layers",)))
    np.testing.assert_array_equal(run(loaded, X)[0], np.maximum(2 * X, 0))


def test_an_operator_of_an_unknown_domain_is_refused_by_its_name(imported: Any) -> None:
    model = model_of([node("Relu", ["x"], ["y"], domain="org.example")], domains=("org.example",))
    with pytest.raises(UnsupportedModelError, match=r"^net.onnx: unknown operator org\.example::Relu[^\n]*$"):
        imported(model)


def up(x: np.ndarray, times: int) -> np.ndarray:
    return x.repeat(times, 2).repeat(times, 3)


OLD = {  # case -> (nodes, weights, opset, expected)
    "slice": ([node("Slice", ["x"], ["y"], axes=[1, 3], starts=[1, -5], ends=[3, 99])], {}, 9, X[:, 1:3, :, -5:]),
    "slice_all_axes": ([node("Slice", ["x"], ["y"], starts=[0, 2], ends=[1, 4])], {}, 7, X[:, 2:4]),
    "topk": ([node("TopK", ["x"], ["y", "i"], axis=3, k=3)], {}, 9, np.sort(X, 3)[..., ::-1][..., :3]),
    "topk_input": ([node("TopK", ["x", "k"], ["y", "i"])], {"k": ints(2)}, 10, np.sort(X, 3)[..., ::-1][..., :2]),
    "upsample": ([node("Upsample", ["x", "s"], ["y"])], {"s": np.float32([1, 1, 2, 2])}, 9, up(X, 2)),
    "upsample_attribute": ([node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 3.0, 3.0])], {}, 7, up(X, 3)),
    "resize": ([node("Resize", ["x", "s"], ["y"], mode="nearest")], {"s": np.float32([1, 1, 2, 2])}, 10, up(X, 2)),
    "add_axis": (
        [node("Add", ["x", "b"], ["y"], axis=1, broadcast=1)],
        {"b": np.float32([1, 2, 3, 4])},
        6,
        X + np.float32([1, 2, 3, 4])[:, None, None],
    ),
    "batch_norm": (
        [node("BatchNormalization", ["x", "g", "b", "b", "g"], ["y"], epsilon=0.0)],
        {"g": np.float32([1, 2, 3, 4]), "b": np.float32([1, 0, -1, 2])},
        7,
        (X - np.float32([1, 0, -1, 2])[:, None, None]) * np.sqrt(np.float32([1, 2, 3, 4]))[:, None, None]
        + np.float32([1, 0, -1, 2])[:, None, None],
    ),
    "squeeze": ([node("Unsqueeze", ["x"], ["h"], axes=[0]), node("Squeeze", ["h"], ["y"], axes=[0])], {}, 11, X),
    "mean": ([node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)], {}, 8, X.mean((2, 3))),
}


@pytest.mark.parametrize("case", OLD)
def test_old_versions_are_read_as_they_were_meant(case: str, imported: Any, run: Any) -> None:
    nodes, weights, opset, expected = OLD[case]
    result = run(imported(model_of(nodes, weights, opset)), X)[0]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_linear_upsampling_of_opset_9_starts_at_the_first_pixel(imported: Any, run: Any) -> None:
    row = np.float32([0, 1, 3]).reshape(1, 1, 1, 3)
    scales = {"s": np.float32([1, 1, 1, 2])}
    loaded = imported(model_of([node("Upsample", ["x", "s"], ["y"], mode="linear")], scales, 9, row.shape))
    np.testing.assert_allclose(run(loaded, row)[0].reshape(-1), [0, 0.5, 1, 2, 3, 3], rtol=1e-6)


CONV = node("Conv", ["x", "wf"], ["y"], pads=[1] * 4)
BYTES = rng.integers(-90, 90, W.shape).astype(np.int8)
HIDDEN_WEIGHTS = {  # case -> (nodes before the convolution, weights, what the convolution's weights are)
    "cast_half": ([node("Cast", ["w"], ["wf"], to=1)], {"w": W.astype(np.float16)}, W.astype(np.float16)),
    "cast_mul": (
        [node("Cast", ["w"], ["h"], to=1), node("Mul", ["h", "s"], ["wf"])],
        {"w": BYTES, "s": np.float32(0.01)},
        BYTES * np.float32(0.01),
    ),
    "dequantize": (
        [node("DequantizeLinear", ["w", "s", "z"], ["wf"], axis=0)],
        {"w": BYTES, "s": np.float32([0.01, 0.02, 0.03, 0.04]), "z": np.zeros(4, np.int8)},
        BYTES * np.float32([0.01, 0.02, 0.03, 0.04])[:, None, None, None],
    ),
    "transpose": ([node("Transpose", ["w"], ["wf"], perm=[3, 2, 1, 0])], {"w": W.transpose(3, 2, 1, 0)}, W),
}


@pytest.mark.parametrize("case", HIDDEN_WEIGHTS)
def test_weights_behind_operators_are_constants(case: str, imported: Any, run: Any) -> None:
    nodes, weights, plain = HIDDEN_WEIGHTS[case]
    loaded = imported(model_of([*nodes, CONV], weights))
    assert operators_of(loaded) == ["nn.conv2d"]
    (expected,) = ReferenceEvaluator(model_of([CONV], {"wf": plain.astype(np.float32)})).run(None, {"x": X})
    np.testing.assert_allclose(run(loaded, X)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_network_in_float16_is_read_as_float32_and_says_so(imported: Any, run: Any) -> None:
    weights = {"wf": W.astype(np.float16), "half": np.float16(0.5)}
    nodes = [node("Conv", ["x", "wf"], ["h"], pads=[1] * 4), node("Mul", ["h", "half"], ["y"])]
    loaded = imported(model_of(nodes, weights, dtype=TensorProto.FLOAT16))
    assert loaded.notes == ("float16 tensors of the file are read as float32",)
    wide = {name: w.astype(np.float32) for name, w in weights.items()}
    (expected,) = ReferenceEvaluator(model_of(nodes, wide)).run(None, {"x": X})
    np.testing.assert_allclose(run(loaded, X)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("taken", [True, False])
def test_an_if_on_a_constant_is_the_branch_it_takes(taken: bool, imported: Any, run: Any) -> None:
    """Branches read tensors from outside, share names, and may pass one on without an operator."""
    info = helper.make_tensor_value_info("t", TensorProto.FLOAT, X.shape)
    outside = helper.make_tensor_value_info("h", TensorProto.FLOAT, X.shape)
    then = helper.make_graph([node("Neg", ["h"], ["u"]), node("Abs", ["u"], ["t"])], "then", [], [info])
    other = helper.make_graph([], "else", [], [outside])
    nodes = [
        node("Relu", ["x"], ["h"]),
        node("If", ["c"], ["r"], then_branch=then, else_branch=other),
        node("Add", ["r", "x"], ["y"]),
    ]
    loaded = imported(model_of(nodes, {"c": np.array(taken)}))
    np.testing.assert_array_equal(run(loaded, X)[0], np.maximum(X, 0) + X)
    assert ("abs" in operators_of(loaded)) == taken


def test_arithmetic_on_shapes_is_done_before(imported: Any, run: Any) -> None:
    """A reshape to half the rows, and a mask made from the size."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "two"], ["rows"]),
        node("Div", ["rows", "two"], ["half"]),
        node("Concat", ["half", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["r"]),
        node("Shape", ["r"], ["rs"]),
        node("ConstantOfShape", ["rs"], ["ones"], value=numpy_helper.from_array(np.float32([1]))),
        node("Add", ["r", "ones"], ["y"]),
    ]
    loaded = imported(model_of(nodes, {"two": ints(2), "rest": ints(-1)}))
    assert operators_of(loaded) == ["reshape", "add"]
    np.testing.assert_array_equal(run(loaded, X)[0], X.reshape(3, -1) + 1)


def attention() -> onnx.ModelProto:
    heads = node("Attention", ["x", "x", "x"], ["y"], q_num_heads=2, kv_num_heads=2, is_causal=1)
    return model_of([heads], opset=23, shape=(1, 5, 8))


BODIES = {
    "layer_norm_with_mean": (
        model_of(
            [node("LayerNormalization", ["x", "g", "b"], ["y", "mean"], axis=2)],
            {"g": rng.standard_normal((6, 8), dtype=np.float32), "b": rng.standard_normal((6, 8), dtype=np.float32)},
            outputs=("y", "mean"),
        )
    ),
    "celu": model_of([node("Celu", ["x"], ["y"], alpha=0.5)]),
    "attention": attention(),
    "swish": model_of([node("Swish", ["x"], ["y"])], opset=24),  # its body reads an attribute that is left out
    "rms_norm_of_all": model_of(
        [node("RMSNormalization", ["x", "g"], ["y"], axis=-4)],
        {"g": rng.standard_normal(X.shape, dtype=np.float32)},
        opset=23,
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_operators_that_tvm_lacks_are_computed_by_their_schemas_body(case: str, imported: Any, run: Any) -> None:
    model = BODIES[case]
    x = rng.standard_normal([d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim], dtype=np.float32)
    expected = ReferenceEvaluator(model).run(None, {"x": x})
    for result, wanted in zip(run(imported(model), x), expected, strict=True):
        assert result.shape == wanted.shape
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-5)


def test_a_body_of_another_domain_is_written_in_the_newest_version(imported: Any, run: Any) -> None:
    """And not in that of the domain: FlexAttention 1 gives Unsqueeze its axes as opset 13 does."""
    domain = "ai.onnx.preview"
    if not onnx.defs.has("FlexAttention", domain):
        pytest.skip("this version of onnx does not know FlexAttention")
    model = model_of([node("FlexAttention", ["x", "x", "x"], ["y"], domain=domain)], opset=26)
    model.opset_import.append(helper.make_opsetid(domain, 1))
    scores = np.float64(X) @ np.float64(X).swapaxes(2, 3) / np.sqrt(8)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(run(imported(model), X)[0], weights / weights.sum(-1, keepdims=True) @ X, rtol=1e-4)


def test_what_has_no_elements_is_constant_and_not_joined(imported: Any, run: Any) -> None:
    nodes = [
        node("Slice", ["x", "one", "one", "one"], ["none"]),
        node("Relu", ["none"], ["none_either"]),
        node("Concat", ["none_either", "x", "none"], ["y"], axis=1),
        node("ReduceSum", ["none", "one"], ["z"], keepdims=0),
    ]
    loaded = imported(model_of(nodes, {"one": ints(1)}, outputs=("y", "z", "none")))
    assert "strided_slice" not in operators_of(loaded) and "nn.relu" not in operators_of(loaded)
    joined, summed, none = run(loaded, X)
    np.testing.assert_array_equal(joined, X)
    np.testing.assert_array_equal(summed, np.zeros((1, 6, 8), np.float32))
    assert none.shape == (1, 0, 6, 8)


def test_nodes_of_a_body_are_called_after_their_operator(imported: Any) -> None:
    celu = node("Celu", ["x"], ["y"], name="/block/act/Celu")
    names = [str(b.var.name) for block in imported(model_of([celu])).mod["main"].body.blocks for b in block.bindings]
    assert names and all(name.startswith("block.act.Celu") for name in names)


def test_what_nobody_reads_is_not_refused(imported: Any) -> None:
    dead = node("RandomNormalLike", ["x"], ["noise"])
    assert operators_of(imported(model_of([dead, node("Relu", ["x"], ["y"])]))) == ["nn.relu"]


def test_random_numbers_are_refused_and_not_made_constant(imported: Any) -> None:
    nodes = [node("RandomNormal", [], ["noise"], shape=[1, 4, 6, 8]), node("Add", ["x", "noise"], ["y"])]
    with pytest.raises(UnsupportedModelError, match=r"^net.onnx: RandomNormal makes random numbers, [^\n]+$"):
        imported(model_of(nodes))


def test_no_huge_constant_is_made(imported: Any) -> None:
    """A terabyte of zeros: asked for by a few bytes, and read for one row."""
    nodes = [
        node("ConstantOfShape", ["shape"], ["zeros"]),
        node("Gather", ["zeros", "row"], ["h"]),
        node("Add", ["x", "h"], ["y"]),
    ]
    onnx_file = model_of(nodes, {"shape": ints(1 << 35, 8), "row": np.int64(3)})
    assert "broadcast_to" in operators_of(imported(onnx_file))


@pytest.mark.parametrize("backward", [0, 1])
def test_a_scan_is_its_steps(backward: int, imported: Any, run: Any) -> None:
    """Running sums along axis 1: the state is an initializer, the body reads a tensor from outside."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            node("Mul", ["piece", "two"], ["m"]),
            node("Add", ["state", "m"], ["sum"]),
            node("Identity", ["sum"], ["out"]),
        ],
        "body",
        [info("state", TensorProto.FLOAT, (3,)), info("piece", TensorProto.FLOAT, (3,))],
        [info("sum", TensorProto.FLOAT, (3,)), info("out", TensorProto.FLOAT, (3,))],
    )
    scan = node(
        "Scan",
        ["zeros", "x"],
        ["last", "y"],
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_input_directions=[backward],
        scan_output_axes=[1],
    )
    weights = {"zeros": np.zeros(3, np.float32), "two": np.float32(2)}
    x = rng.standard_normal((3, 4), dtype=np.float32)
    found = run(imported(model_of([scan], weights, shape=(3, 4), outputs=("y", "last"))), x)
    turned = x[:, ::-1] if backward else x
    np.testing.assert_allclose(found[0], 2 * np.cumsum(turned, 1), rtol=1e-5)
    np.testing.assert_allclose(found[1], 2 * x.sum(1), rtol=1e-5, atol=1e-6)
