from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tvm_mpq.errors import FileFormatError, InvalidValueError, MissingFileError, UnsupportedModelError
from tvm_mpq.frontends import load_model

node = helper.make_node


@pytest.fixture
def network(rng, save_onnx) -> Path:
    """Convolution, batch norm, residual, padded shortcut, split, pooling and a classifier."""

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    nodes = [
        node("Conv", ["image.1", "stem.conv.weight", "stem.conv.bias"], ["a"], pads=[1] * 4),
        node("BatchNormalization", ["a", "bn.weight", "bn.bias", "bn.mean", "bn.var"], ["b"]),
        node("Relu", ["b"], ["c"], name="/stem/Relu"),
        node("Slice", ["c", "starts", "ends", "axes", "steps"], ["d"], name="/shortcut/Slice"),
        node("Pad", ["d", "pads"], ["e"], name="/shortcut/Pad"),
        node("Conv", ["c", "onnx::Conv_9"], ["f"], name="/block/conv/Conv", strides=[2, 2], pads=[1] * 4),
        node("Add", ["f", "e"], ["g"], name="/block/Add"),
        node("Split", ["g"], ["h", "i"], name="/Split", axis=1),
        node("Concat", ["i", "h"], ["j"], name="/Concat", axis=1),
        node("GlobalAveragePool", ["j"], ["k"], name="/pool"),
        node("Flatten", ["k"], ["l"], name="/Flatten"),
        node("Gemm", ["l", "head.weight", "head.bias"], ["logits"], transB=1),
    ]
    weights = {
        "stem.conv.weight": normal(4, 3, 3, 3),
        "stem.conv.bias": normal(4),
        "bn.weight": normal(4),
        "bn.bias": normal(4),
        "bn.mean": normal(4),
        "bn.var": abs(normal(4)) + 0.5,
        "starts": np.array([0, 0]),
        "ends": np.array([9999, 9999]),
        "axes": np.array([2, 3]),
        "steps": np.array([2, 2]),
        "pads": np.array([0, 2, 0, 0, 0, 2, 0, 0]),
        "onnx::Conv_9": normal(8, 4, 3, 3),
        "head.weight": normal(5, 8),
        "head.bias": normal(5),
    }
    return save_onnx(nodes, {"image.1": (("N", 3, 8, 8), "float32")}, weights, ["logits"], name="net.onnx")


def test_the_imported_network_computes_the_same(network, rng, run) -> None:
    loaded = load_model(network, batch=2)
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    reference = ReferenceEvaluator(onnx.load(str(network))).run(None, {"image.1": x})[0]
    np.testing.assert_allclose(run(loaded, x)[0], reference, rtol=0, atol=1e-4)  # values up to 30, 36 terms a sum


def test_names_tie_operators_to_the_source(network, operators) -> None:
    found = operators(load_model(network))
    assert found["stem.conv"] == "relax.nn.conv2d"
    assert found["bn"] == "relax.nn.batch_norm"
    assert found["block.conv"] == "relax.nn.conv2d"
    assert found["head"] == "relax.matmul"
    assert found["block.Add"] == "relax.add"
    assert found["shortcut.Pad"] == "relax.nn.pad"
    assert found["shortcut.Slice"] == "relax.strided_slice"
    assert found["Concat"] == "relax.concat"
    assert set(found) >= {"stem.conv_add", "bn_0", "Split_0", "Split_1", "head_add"}


def test_main_takes_the_inputs_only(network) -> None:
    loaded = load_model(network)
    main = loaded.mod["main"]
    assert [str(p.name) for p in main.params] == ["image_1"]
    assert loaded.input_names == ("image.1",)
    assert [int(d) for d in main.params[0].ty.shape] == [1, 3, 8, 8]
    assert set(main.attrs.keys()) <= {"global_symbol"}
    assert loaded.name == "net"
    assert loaded.notes == ("dynamic batch axis of input 'image.1' fixed to 1",)
    assert [gv.name_hint for gv in loaded.mod.get_global_vars()] == ["main"]


def test_loading_twice_gives_the_same_fingerprint_and_other_weights_another(network) -> None:
    first = load_model(network)
    assert first.fingerprint == load_model(str(network)).fingerprint
    assert first.fingerprint != load_model(network, batch=2).fingerprint
    model = onnx.load(str(network))
    next(t for t in model.graph.initializer if t.name == "head.bias").raw_data = np.ones(5, np.float32).tobytes()
    network.write_bytes(model.SerializeToString())
    assert load_model(network).fingerprint != first.fingerprint


def test_nothing_is_printed(network, save_onnx, capfd) -> None:
    load_model(network)
    bad = save_onnx([node("Reshape", ["x", "x"], ["y"])], {"x": ((1, 4), "float32")})
    with pytest.raises(UnsupportedModelError):
        load_model(bad)
    assert capfd.readouterr() == ("", "")


def test_all_unknown_operators_are_named_at_once(save_onnx) -> None:
    path = save_onnx([node("Foo", ["x"], ["h"]), node("Bar", ["h"], ["y"])], {"x": ((1, 4), "float32")})
    with pytest.raises(UnsupportedModelError, match=r"^model.onnx: unknown operators Bar, Foo; [^\n]+$"):
        load_model(path)


def test_an_operator_that_cannot_be_imported_is_named(save_onnx) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Einsum", ["x", "r"], ["y"], name="/mix/Einsum", equation="nonsense")]
    path = save_onnx(nodes, {"x": ((1, 4), "float32")})
    with pytest.raises(UnsupportedModelError, match=r"operator Einsum \(node 'mix.Einsum'\) cannot be imported"):
        load_model(path)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("QuantizeLinear", "QuantizeLinear .*lacks inputs"),
        ("QLinearConv", "QLinearConv .*lacks inputs"),
        ("If", "control flow"),
        ("Loop", "control flow"),
    ],
)
def test_control_flow_and_operators_without_their_inputs_are_refused(kind, text, save_onnx) -> None:
    path = save_onnx([node(kind, ["x"], ["y"])], {"x": ((1, 4), "float32")})
    with pytest.raises(UnsupportedModelError, match=text):
        load_model(path)


def test_weights_of_nan_are_refused_by_name(save_onnx) -> None:
    weight = np.ones((2, 2), np.float32)
    weight[0, 1] = np.nan
    path = save_onnx([node("MatMul", ["x", "fc.weight"], ["y"])], {"x": ((1, 2), "float32")}, {"fc.weight": weight})
    with pytest.raises(UnsupportedModelError, match="NaN in tensor 'fc"):
        load_model(path)


def test_a_dynamic_axis_other_than_the_batch_is_refused_or_given(save_onnx) -> None:
    path = save_onnx([node("Relu", ["x"], ["y"])], {"x": (("N", 3, "height", None), "float32")})
    with pytest.raises(UnsupportedModelError, match=r"input 'x' has dynamic axes 2 \(height\)"):
        load_model(path)
    loaded = load_model(path, input_shapes={"x": (2, 3, 5, 7)})
    assert [int(d) for d in loaded.mod["main"].params[0].ty.shape] == [2, 3, 5, 7]
    with pytest.raises(InvalidValueError, match="unknown input 'z'"):
        load_model(path, input_shapes={"x": (2, 3, 5, 7), "z": (1,)})


def test_integer_inputs_stay_integers(save_onnx, run) -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    path = save_onnx(
        [node("Gather", ["emb.weight", "ids"], ["y"])], {"ids": (("N", 2), "int64")}, {"emb.weight": table}
    )
    loaded = load_model(path)
    assert str(loaded.mod["main"].params[0].ty.dtype) == "int64"
    np.testing.assert_array_equal(run(loaded, np.array([[3, -3]], np.int64))[0], table[[[3, 1]]])


def test_a_missing_file_and_files_that_are_no_models(tmp_path) -> None:
    with pytest.raises(MissingFileError, match=r"no model file at .*none\.onnx"):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(FileFormatError, match="folder"):
        load_model(tmp_path)
    for content in (b"", b"\x89PNG\r\n\x1a\n" + bytes(range(64))):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(FileFormatError, match="not an ONNX file"):
            load_model(tmp_path / "bad.onnx")


def test_a_file_cut_short_is_refused(network) -> None:
    data = network.read_bytes()
    network.write_bytes(data[: len(data) // 2])
    with pytest.raises((FileFormatError, UnsupportedModelError), match=r"^[^\n]+$"):
        load_model(network)


def test_weights_in_a_second_file_that_is_not_there(network) -> None:
    model = onnx.load(str(network))
    onnx.save(model, str(network), save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert load_model(network).name == "net"
    (network.parent / "weights.bin").unlink()
    with pytest.raises(FileFormatError, match=r"^[^\n]*net.onnx[^\n]*cannot be read[^\n]*$"):
        load_model(network)
