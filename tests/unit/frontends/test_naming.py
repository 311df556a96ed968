from __future__ import annotations

import re

import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax

from tvm_mpq.frontends.naming import (
    UniqueNames,
    is_anonymous,
    names_by_variable,
    new_names,
    owner_of,
    path,
    rename,
    safe,
)


@given(st.text())
def test_safe_names_hold_only_the_allowed_characters_and_stay_so(text: str) -> None:
    name = safe(text)
    assert re.fullmatch(r"[A-Za-z0-9_.]+", name)
    assert safe(name) == name


@pytest.mark.parametrize(
    ("parameter", "owner"),
    [
        ("layer1.0.conv1.weight", "layer1.0.conv1"),
        ("fc.bias", "fc"),
        ("conv1_w", "conv1"),
        ("att.in_proj_weight", "att.in_proj"),
        ("model/conv2d_1/Conv2D", "model.conv2d_1"),
        ("model/dense/MatMul/ReadVariableOp:0", "model.dense"),
        ("weight", "weight"),
        ("W", "W"),
    ],
)
def test_owner_of(parameter: str, owner: str) -> None:
    assert owner_of(parameter) == owner


@pytest.mark.parametrize("name", ["onnx::Conv_123", "17", "v3", "tfl.pseudo_qconst4", "arith.constant", "weight", ""])
def test_made_up_names_are_anonymous(name: str) -> None:
    assert is_anonymous(name)


@pytest.mark.parametrize("name", ["conv1", "features.0", "fc.weight", "conv2d"])
def test_given_names_are_not_anonymous(name: str) -> None:
    assert not is_anonymous(name)


def test_path_replaces_a_repeated_prefix() -> None:
    assert path("/blocks/blocks.0/depthwise/conv") == "blocks.0.depthwise.conv"


@given(st.lists(st.sampled_from(["a", "b", "a_1", "a_1_1"]), max_size=12))
def test_unique_names_are_unique(wanted: list[str]) -> None:
    names = UniqueNames(["a"])
    got = [names.unique(w) for w in wanted]
    assert len({*got, "a"}) == len(got) + 1


def _gemm() -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            weight = builder.emit(relax.op.permute_dims(relax.const([[1.0] * 3] * 4, "float32")))
            product = builder.emit(relax.op.matmul(x, weight))
            shifted = builder.emit(relax.op.add(product, relax.const([1.0] * 4, "float32")))
            out = builder.emit_output(builder.emit(relax.op.nn.relu(shifted)))
        builder.emit_func_output(out)
    return builder.get()


def test_the_binding_with_the_weights_gets_the_name_and_dots_survive() -> None:
    mod = _gemm()
    names = names_by_variable(mod["main"], {"lv2": "head.fc", "lv3": "head.relu"})
    new = rename(mod, new_names(mod["main"], names, ["input"]))
    got = [str(b.var.name) for block in new["main"].body.blocks for b in block.bindings]
    assert got[:4] == ["head.fc_permute_dims", "head.fc", "head.fc_add", "head.relu"]
    assert str(new["main"].params[0].name) == "input"
    assert relax.analysis.well_formed(new) is None or relax.analysis.well_formed(new)
    assert str(mod["main"].params[0].name) == "x", "the module that came in was changed"


def test_equal_names_and_input_names_are_told_apart() -> None:
    mod = _gemm()
    names = names_by_variable(mod["main"], {"lv1": "input", "lv2": "input", "lv3": "input"})
    new = rename(mod, new_names(mod["main"], names, ["input"]))
    got = [str(b.var.name) for block in new["main"].body.blocks for b in block.bindings]
    assert len({*got, "input"}) == len(got) + 1


def test_a_fused_activation_does_not_take_the_name() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            total = builder.emit(relax.op.add(x, x))
            out = builder.emit_output(relax.op.nn.relu(total))
        builder.emit_func_output(out)
    names = names_by_variable(builder.get()["main"], {"gv": "block.add"})
    assert names == {"lv": "block.add", "gv": "block.add_relu"}
