"""What each quantized operator of ONNX, and of ONNX Runtime's domain, means in real numbers: one row an operator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from tvm_mpq.frontends.onnx_qdq import MICROSOFT, Convert, IntegerReader, quantized_constant

_ONE_AXIS = 13  # the opset from which on Softmax is over one axis


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _input(node: onnx.NodeProto, place: int) -> str:
    return str(node.input[place]) if place < len(node.input) else ""


def _quantize(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    block, to = _attribute(node, "block_size", 0), _attribute(node, "output_dtype", 0) or onnx.TensorProto.UINT8
    dtype = onnx.TensorProto.DataType.Name(to).lower()
    affine = reader.affine(node, node.input[1], _input(node, 2), _attribute(node, "axis", 1), block, dtype=dtype)
    reals = reader.constant(node.input[0])
    if reals is not None:
        quantized_constant(reader, reals, affine, node.output[0])
    else:
        reader.stands_for(node.output[0], reader.real_name(node.input[0]), affine)
    return True


def _dequantize(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    block = _attribute(node, "block_size", 0)
    codes, axis = node.input[0], _attribute(node, "axis", 1)
    affine = reader.affine(node, node.input[1], _input(node, 2), axis, block, of=codes)
    reader.dequantize(node.output[0], codes, affine)
    return True


def _dynamic_quantize(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    reader.make_dynamic(node.output[0], reader.real_name(node.input[0]), node.output[1], node.output[2])
    return True


def _operand(reader: IntegerReader, node: onnx.NodeProto, place: int, axis: int = 1) -> str:
    """Integers, scale and zero from `place` on, as a real tensor."""
    codes = node.input[place]
    return reader.real(codes, reader.affine(node, node.input[place + 1], _input(node, place + 2), axis, of=codes))


def _finish(reader: IntegerReader, node: onnx.NodeProto, real: str, place: int, first: int = 0) -> bool:
    """The result's scale and zero stand at `place`; without zero it has the type of the first operand."""
    affine = reader.affine(node, node.input[place], _input(node, place + 1), of=node.input[first])
    reader.stands_for(node.output[0], real, affine)
    return True


def _plain(op_type: str, operands: int, dropped: Sequence[str] = ()) -> Convert:
    """Operands of (integers, scale, zero) each, then the result's scale and zero."""

    def convert(reader: IntegerReader, node: onnx.NodeProto) -> bool:
        if _attribute(node, "channels_last", 0):
            return False
        reals = [_operand(reader, node, 3 * i) for i in range(operands)]
        bare = onnx.NodeProto()
        bare.CopyFrom(node)
        del bare.attribute[:]
        bare.attribute.extend(a for a in node.attribute if a.name not in dropped)
        return _finish(reader, node, reader.add(op_type, reals, reader.result(node), bare), 3 * operands)

    return convert


def _bias(reader: IntegerReader, node: onnx.NodeProto, at: int, alpha: float = 1.0) -> str | None:
    """The name of the real bias of an operator whose data's scale is input 1 and its weight's input 4; None where it is
    no constant. alpha: what the operator multiplies its products by, which are the bias's steps."""
    x, w = (reader.affine(node, node.input[i], "", dtype="int32") for i in (1, 4))
    bias = reader.constant(node.input[at])
    if bias is None:
        return None
    scale = (x.scale * w.scale).reshape(-1) * np.float32(alpha)
    return reader.hold(f"{node.input[at]}_real", (bias * scale).astype(np.float32))


def _conv(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    reals = [_operand(reader, node, 0), _operand(reader, node, 3, axis=0)]
    if _input(node, 8):
        bias = _bias(reader, node, 8)
        if bias is None:
            return False
        reals.append(bias)
    return _finish(reader, node, reader.add("Conv", reals, reader.result(node), node), 6)


def _matmul(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    reals = [_operand(reader, node, 0), _operand(reader, node, 3, axis=-1)]
    return _finish(reader, node, reader.add("MatMul", reals, reader.result(node), node), 6)


def _gemm(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    transposed = _attribute(node, "transB", 0)
    reals = [_operand(reader, node, 0), _operand(reader, node, 3, axis=0 if transposed else 1)]
    if _input(node, 6):
        bias = _bias(reader, node, 6, next((a.f for a in node.attribute if a.name == "alpha"), 1.0))
        if bias is None:
            return False
        reals.append(bias)
    if not _input(node, 7):  # the result is real
        reader.equate(node.output[0], reader.add("Gemm", reals, reader.result(node), node))
        return True
    return _finish(reader, node, reader.add("Gemm", reals, reader.result(node), node), 7)


def _softmax(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    """QLinearSoftmax(X, scale, zero, the result's): as of `opset`; before 13, over all axes from `axis` on at once."""
    axis, real = _attribute(node, "axis", -1), _operand(reader, node, 0)
    if _attribute(node, "opset", 0) >= _ONE_AXIS:
        if reader.opset < _ONE_AXIS:
            return False
        row = reader.add("Softmax", [real], reader.result(node), helper.make_node("Softmax", [], [], axis=axis))
        return _finish(reader, node, row, 3)
    flat = reader.add("Flatten", [real], reader.result(node), helper.make_node("Flatten", [], [], axis=axis))
    soft = reader.add("Softmax", [flat], reader.result(node), helper.make_node("Softmax", [], [], axis=1))
    shape = reader.add("Shape", [real], reader.result(node))
    return _finish(reader, node, reader.add("Reshape", [soft, shape], reader.result(node)), 3)


def _average(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    """QLinearAveragePool; ONNX Runtime's counts what windows overhang at the end as padding, ONNX's does not."""
    if _attribute(node, "ceil_mode", 0) and _attribute(node, "count_include_pad", 0):
        return False
    return _plain("AveragePool", 1, dropped=("channels_last",))(reader, node)


def _where(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    """QLinearWhere(condition, X, scale, zero, Y, scale, zero, the result's)."""
    reals = [reader.real_name(node.input[0]), _operand(reader, node, 1), _operand(reader, node, 4)]
    return _finish(reader, node, reader.add("Where", reals, reader.result(node), node), 7, first=1)


def _concat(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    """The result's scale and zero come first."""
    reals = [_operand(reader, node, i) for i in range(2, len(node.input), 3)]
    return _finish(reader, node, reader.add("Concat", reals, reader.result(node), node), 0, first=2)


def _difference(reader: IntegerReader, node: onnx.NodeProto, place: int, zero_place: int) -> str | None:
    """Integers less their zero, as float32 numbers."""
    name, zero = node.input[place], _input(node, zero_place)
    one = reader.hold(f"{name}_one", np.array(1, np.float32))
    chosen = reader.scale_chosen_for(name)
    if chosen is not None:
        return reader.real(name, reader.affine(node, chosen, zero, of=name))
    if reader.constant(name) is None:
        return None
    zeros = reader.constant(zero) if zero else None
    affine = reader.affine(node, one, zero if zeros is not None and zeros.size == 1 else "", axis=-1, of=name)
    if zeros is not None and zeros.size > 1:
        affine = type(affine)(np.ones(zeros.shape, np.float32), zeros.astype(np.int32), str(zeros.dtype), -1)
    return reader.real(name, affine)


def _sums(op_type: str) -> Convert:
    """MatMulInteger, ConvInteger: sums that a Cast and a product with the scales make real."""

    def convert(reader: IntegerReader, node: onnx.NodeProto) -> bool:
        operands = [_difference(reader, node, i, i + 2) for i in (0, 1)]
        if None in operands:
            return False
        real = reader.add(op_type, [o for o in operands if o], reader.result(node), node)
        reader.add_sums(node.output[0], real, node.input[:2])
        return True

    return convert


def _cast(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    """Sums to float32: they are that already."""
    if node.input[0] not in reader.sums or _attribute(node, "to", 0) != onnx.TensorProto.FLOAT:
        return False
    reader.cast_sums(node.input[0], node.output[0])
    return True


def _matmul_to_float(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    """MatMulIntegerToFloat(A, B, scale of A, of B, zero of A, of B, bias)."""
    a, b = (
        reader.real(codes, reader.affine(node, node.input[2 + i], _input(node, 4 + i), axis=-1, of=codes))
        for i, codes in enumerate(node.input[:2])
    )
    return _with_bias(reader, node, [a, b], _input(node, 6))


def _dynamic_matmul(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    """DynamicQuantizeMatMul(A, B, scale of B, zero of B, bias): A is real."""
    b = reader.real(node.input[1], reader.affine(node, node.input[2], _input(node, 3), axis=-1, of=node.input[1]))
    return _with_bias(reader, node, [reader.real_name(node.input[0]), b], _input(node, 4))


def _with_bias(reader: IntegerReader, node: onnx.NodeProto, operands: list[str], bias: str) -> bool:
    real = reader.add("MatMul", operands, reader.result(node), helper.make_node("MatMul", [], [], name=node.name))
    if bias:
        real = reader.add("Add", [real, reader.real_name(bias)], reader.result(node))
    reader.equate(node.output[0], real)
    return True


def _dynamic_lstm(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    """DynamicQuantizeLSTM(X, W, R, B, lengths, h, c, P, scale of W, zero of W, scale of R, zero of R): X is real.

    Weights are stored with their gates last, which LSTM has before the size that is summed up.
    """
    plain = helper.make_node("LSTM", list(node.input[:8]), list(node.output), name=node.name)
    plain.attribute.extend(node.attribute)
    for place, scale in ((1, 8), (2, 10)):
        codes, scales, zeros = (reader.constant(node.input[i]) for i in (place, scale, scale + 1))
        if codes is None or scales is None or zeros is None:
            return False
        each = [len(codes), 1, -1]  # a number for a direction, or for each of its gates' rows
        reals = (codes.astype(np.float32) - zeros.astype(np.float32).reshape(each)) * scales.reshape(each)
        plain.input[place] = reader.hold(f"{node.input[place]}_real", reals.transpose(0, 2, 1).astype(np.float32))
    reader.keep(plain)
    return True


def _nibbles(codes: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of 4 or 8 bits along the last axis; the low half of a byte comes first."""
    return codes if bits == 8 else np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], -1)


def _matmul_of_blocks(reader: IntegerReader, node: onnx.NodeProto) -> bool:
    """MatMulNBits(A, B, scales, zeros, places, bias): blocks of 4 or 8 bits, a scale each; A is real."""
    inside, outside = (_attribute(node, name, 0) for name in ("K", "N"))
    bits, size = _attribute(node, "bits", 4), _attribute(node, "block_size", 0)
    codes, scales = (reader.constant(node.input[i]) for i in (1, 2))
    zeros = reader.constant(_input(node, 3)) if _input(node, 3) else None
    if codes is None or scales is None or bits not in (4, 8) or _input(node, 4) or (_input(node, 3) and zeros is None):
        return False
    blocks = -(-inside // size)
    whole = _nibbles(codes.reshape(outside, blocks, -1), bits).astype(np.float32)
    middle: np.ndarray = np.full((outside, blocks), 2.0 ** (bits - 1), np.float32)
    if zeros is not None and zeros.dtype.kind == "f":
        middle = zeros.reshape(outside, blocks).astype(np.float32)
    elif zeros is not None:
        middle = _nibbles(zeros.reshape(outside, -1), bits)[:, :blocks].astype(np.float32)
    reals = (whole - middle[..., None]) * scales.reshape(outside, blocks, 1)
    weight = reader.hold(f"{node.input[1]}_real", reals.reshape(outside, -1)[:, :inside].T.astype(np.float32))
    return _with_bias(reader, node, [reader.real_name(node.input[0]), weight], _input(node, 5))


_ROWS: dict[tuple[str, str], Convert] = {
    ("", "QuantizeLinear"): _quantize,
    ("", "DequantizeLinear"): _dequantize,
    (MICROSOFT, "QuantizeLinear"): _quantize,
    (MICROSOFT, "DequantizeLinear"): _dequantize,
    ("", "DynamicQuantizeLinear"): _dynamic_quantize,
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    ("", "ConvInteger"): _sums("Conv"),
    ("", "MatMulInteger"): _sums("MatMul"),
    (MICROSOFT, "MatMulIntegerToFloat"): _matmul_to_float,
    (MICROSOFT, "DynamicQuantizeMatMul"): _dynamic_matmul,
    (MICROSOFT, "DynamicQuantizeLSTM"): _dynamic_lstm,
    (MICROSOFT, "MatMulNBits"): _matmul_of_blocks,
    (MICROSOFT, "QGemm"): _gemm,
    (MICROSOFT, "QLinearAdd"): _plain("Add", 2),
    (MICROSOFT, "QLinearMul"): _plain("Mul", 2),
    (MICROSOFT, "QLinearConcat"): _concat,
    (MICROSOFT, "QLinearSigmoid"): _plain("Sigmoid", 1),
    (MICROSOFT, "QLinearLeakyRelu"): _plain("LeakyRelu", 1),
    (MICROSOFT, "QLinearSoftmax"): _softmax,
    (MICROSOFT, "QLinearWhere"): _where,
    (MICROSOFT, "QLinearAveragePool"): _average,
    (MICROSOFT, "QLinearGlobalAveragePool"): _plain("GlobalAveragePool", 1, dropped=("channels_last",)),
}
"""(domain, operator) -> its meaning."""

QUANTIZED = frozenset(_ROWS)
CONVERTERS = {**_ROWS, ("", "Cast"): _cast}
