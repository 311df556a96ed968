"""ONNX operators that TVM's importer turns into opaque TensorIR functions, as plain Relax operators instead.

A converter takes (inputs, attributes) and answers None when TVM's own converter should do it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax

from tvm_mpq.frontends import onnx_arithmetic as arithmetic
from tvm_mpq.frontends.onnx_nodes import STANDARD, VersionedNode, attribute
from tvm_mpq.frontends.onnx_resize import resize
from tvm_mpq.frontends.onnx_rnn import gru, lstm, rnn
from tvm_mpq.frontends.onnx_versions import tvm_versions

Converter = Callable[[list[Any], dict[str, Any]], Any]

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _input(inputs: list[Any], i: int) -> Any:
    return inputs[i] if i < len(inputs) else None


def _number(expr: Any, default: float) -> float | None:
    """The value of a scalar constant; `default` when absent, None when it is not a constant."""
    if expr is None:
        return default
    if not isinstance(expr, tvm.ir.GenericConst):
        return None
    return float(expr.value.numpy().reshape(-1)[0])


def _integers(expr: Any) -> list[int] | None:
    return [int(v) for v in expr.value.numpy().reshape(-1)] if isinstance(expr, tvm.ir.GenericConst) else None


def _pad(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """Padding as relax.nn.pad; TVM makes a TE function `pad` of it."""
    data = inputs[0]
    mode = _PAD_MODES.get(attrs.get("mode", b"constant").decode())
    pads = _integers(_input(inputs, 1)) if len(inputs) > 1 else [int(p) for p in attrs.get("pads", ())]
    value = _number(_input(inputs, 2), float(attrs.get("value", 0.0)))
    rank = len(data.ty.shape)
    axes = list(range(rank))
    if _input(inputs, 3) is not None:
        given = _integers(inputs[3])
        if given is None:
            return None
        axes = [a % rank for a in given]
    if mode is None or not pads or value is None or len(pads) != 2 * len(axes):
        return None
    width = [[0, 0] for _ in range(rank)]
    for i, axis in enumerate(axes):
        width[axis] = [pads[i], pads[len(axes) + i]]
    flat = [n for pair in width for n in pair]
    if min(flat) < 0:  # negative padding crops
        extents = [int(d) for d in data.ty.shape]
        begin = [max(-before, 0) for before, _ in width]
        end = [n - max(-after, 0) for n, (_, after) in zip(extents, width, strict=True)]
        data = relax.op.strided_slice(data, list(range(rank)), begin, end)
        flat = [max(n, 0) for n in flat]
    return relax.op.nn.pad(data, flat, mode, value) if any(flat) else data


def _clip(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """relax.clip or relax.nn.relu; TVM makes two TE functions `maximum` and `minimum` of it."""
    data = inputs[0]
    low = _number(_input(inputs, 1), float(attrs.get("min", -math.inf)))
    high = _number(_input(inputs, 2), float(attrs.get("max", math.inf)))
    if low is None or high is None or str(data.ty.dtype) != "float32":
        return None
    low = -math.inf if math.isnan(low) else low  # a NaN bound bounds nothing
    high = math.inf if math.isnan(high) else high
    if math.isinf(low) and math.isinf(high):
        return data
    if math.isinf(high):
        return relax.op.nn.relu(data) if low == 0 else relax.op.maximum(data, relax.const(np.float32(low)))
    if math.isinf(low):
        return relax.op.minimum(data, relax.const(np.float32(high)))
    if low > high:  # ONNX applies the upper bound last
        return relax.op.full_like(data, relax.const(np.float32(high)))
    return relax.op.clip(data, low, high)


def _constant(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """Constants given as plain numbers, which TVM does not read."""
    for name, dtype in (("value_float", "float32"), ("value_floats", "float32"), ("value_int", "int64")):
        if name in attrs:
            return relax.const(np.array(attrs[name], dtype))
    return relax.const(np.array(attrs["value_ints"], "int64")) if "value_ints" in attrs else None


def _explicit_pads(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """Rewrites auto_pad SAME in `attrs` to numbers, and lets TVM go on; TVM would put a TE function `pad` before a
    convolution, and pools of SAME_LOWER would be too small."""
    mode = attrs.get("auto_pad", b"NOTSET").decode()
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return None
    totals = []
    for size, kernel, stride, dilation in _window(inputs, attrs):
        totals.append(max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0))
    _set_pads(attrs, totals, mode)
    return None


def _transposed_pads(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """Rewrites `output_shape` in `attrs` to pads and output padding, as ONNX Runtime does; TVM would ignore it."""
    wanted = attrs.pop("output_shape", None)
    if not wanted:
        return None
    window = _window(inputs, attrs)
    extra = list(attrs.get("output_padding") or [0] * len(window))
    totals = []
    for axis, (size, kernel, stride, dilation) in enumerate(window):
        whole = (size - 1) * stride + (kernel - 1) * dilation + 1 + extra[axis]
        totals.append(max(whole - wanted[axis - len(window)], 0))
        extra[axis] += max(wanted[axis - len(window)] - whole, 0)
    _set_pads(attrs, totals, attrs.get("auto_pad", b"NOTSET").decode())
    attrs["output_padding"] = tuple(extra)
    return None


def _window(inputs: list[Any], attrs: dict[str, Any]) -> list[tuple[int, int, int, int]]:
    """Size of the data, of the kernel, stride and dilation along each spatial axis of a convolution or pool."""
    sizes = [int(d) for d in inputs[0].ty.shape][2:]
    kernel = attrs.get("kernel_shape") or [int(d) for d in inputs[1].ty.shape][2:]
    ones = [1] * len(sizes)
    return list(zip(sizes, kernel, attrs.get("strides") or ones, attrs.get("dilations") or ones, strict=True))


def _set_pads(attrs: dict[str, Any], totals: list[int], mode: str) -> None:
    """Explicit pads of these sums; the odd one goes behind for SAME_UPPER, else in front."""
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    attrs["auto_pad"] = b"NOTSET"
    attrs["pads"] = (*less, *more) if mode == "SAME_UPPER" else (*more, *less)


def _gather(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """A look-up in a constant table (an embedding) as one relax.take that wraps negative indices as ONNX does."""
    table, indices = inputs[0], inputs[1]
    is_table = isinstance(table, tvm.ir.GenericConst) and len(table.ty.shape) > 1
    if not is_table or not isinstance(indices, relax.Var) or not isinstance(indices.ty, relax.TensorType):
        return None
    return relax.op.take(table, indices, int(attrs.get("axis", 0)), mode="wrap")


def _tile(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """Copies along new axes, then a view; TVM makes a TE function of it whose remainders LLVM 22 miscompiles."""
    repeats = _integers(_input(inputs, 1))
    if repeats is None or len(repeats) != len(inputs[0].ty.shape):
        return None
    sizes = [int(d) for d in inputs[0].ty.shape]
    apart = relax.op.reshape(inputs[0], [n for size in sizes for n in (1, size)])
    copied = relax.op.broadcast_to(apart, [n for pair in zip(repeats, sizes, strict=True) for n in pair])
    return relax.op.reshape(copied, [r * n for r, n in zip(repeats, sizes, strict=True)])


def _unsqueeze(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """One axis may be given as a number; TVM wants a list. Changed in `inputs`, and TVM goes on."""
    axes = _integers(_input(inputs, 1))
    if axes is not None:
        inputs[1] = relax.const(np.array(axes, np.int64))


CONVERTERS: dict[str, Converter] = {
    "AveragePool": _explicit_pads,
    "BatchNormalization": arithmetic.batch_normalization,
    "Clip": _clip,
    "Compress": arithmetic.compress,
    "Constant": _constant,
    "Conv": _explicit_pads,
    "ConvTranspose": _transposed_pads,
    "Dropout": arithmetic.dropout,
    "GRU": gru,
    "Gather": _gather,
    "IsInf": arithmetic.is_inf,
    "LSTM": lstm,
    "LpNormalization": arithmetic.lp_normalization,
    "LpPool": _explicit_pads,
    "MaxPool": _explicit_pads,
    "Mod": arithmetic.mod,
    "NonMaxSuppression": arithmetic.data_dependent,
    "NonZero": arithmetic.data_dependent,
    "Pad": _pad,
    "Pow": arithmetic.power,
    "RNN": rnn,
    "Resize": resize,
    "ReverseSequence": arithmetic.reverse_sequence,
    "RoiAlign": arithmetic.roi_align,
    "SpaceToDepth": arithmetic.space_to_depth,
    "Tile": _tile,
    "Unique": arithmetic.data_dependent,
    "Unsqueeze": _unsqueeze,
}


def is_known(op_type: str) -> bool:
    """Whether TVM's importer or a converter of ours reads the operator."""
    return op_type in CONVERTERS or bool(tvm_versions(op_type))


def needs_body(item: VersionedNode, types: Mapping[str, onnx.TypeProto]) -> bool:
    """Whether an operator is to be read as its schema's function body."""
    node = item.node
    if node.domain not in ("com.microsoft", *STANDARD):
        return True
    if node.domain not in STANDARD:
        return False
    several = node.op_type in _FIRST_OUTPUT_ONLY and sum(1 for name in node.output if name) > 1
    return several or _over_all_axes(node, types) or node.op_type in _BY_BODY or not is_known(node.op_type)


def _over_all_axes(node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto]) -> bool:
    """An RMSNormalization that leaves no axis out, which TVM cannot compile."""
    if node.op_type != "RMSNormalization" or node.input[0] not in types:
        return False
    rank = len(types[node.input[0]].tensor_type.shape.dim)
    return int(str(attribute(node, "axis", -1))) in (0, -rank)


_BY_BODY = frozenset(["Attention"])
"""Operators that TVM takes for others of the same name."""

_FIRST_OUTPUT_ONLY = frozenset(["LayerNormalization"])
"""Operators of which TVM computes the first result alone, with zeros for the others."""
