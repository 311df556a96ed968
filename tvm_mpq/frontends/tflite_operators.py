"""TFLite operators that TVM's importer reads wrongly, or passes on as calls that cannot be compiled.

Each function takes the importer and an operator and gives its result. Meanings are those of LiteRT's kernels.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import tflite
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends.tflite_places import (
    batch_to_space,
    gather,
    gather_nd,
    mirror_pad,
    options_of,
    resize,
    scatter_nd,
    space_to_batch,
)
from tvm_mpq.frontends.tflite_rnn import bidirectional_lstm, lstm

TFLiteConverter = Callable[..., Any]
_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL")


def softmax(importer: Any, op: Any) -> Any:
    data = importer.get_tensor_expr(importer.get_input_tensors(op)[0])
    options = options_of(op, tflite.SoftmaxOptions)
    if options is not None and options.Beta() != 1:
        data = relax.op.multiply(data, relax.const(np.float32(options.Beta())))
    return relax.op.nn.softmax(data, axis=-1)


def gelu(importer: Any, op: Any) -> Any:
    data = importer.get_tensor_expr(importer.get_input_tensors(op)[0])
    options = options_of(op, tflite.GeluOptions)
    exact = options is None or not options.Approximate()
    return relax.op.nn.gelu(data) if exact else relax.op.nn.gelu_tanh(data)


def reduce(importer: Any, op: Any, standard: TFLiteConverter) -> Any:
    """`standard`, with each axis once: files may name one twice, or by both its numbers."""
    data, axes = importer.get_input_tensors(op)
    rank = len(importer.get_tensor_shape(data))
    importer.replaced[axes.tensor_idx] = np.unique(np.ravel(importer.get_tensor_value(axes)).astype(int) % max(rank, 1))
    return standard(op=op)


def strided_slice(importer: Any, op: Any) -> Any:
    options = options_of(op, tflite.StridedSliceOptions)
    if options is not None and options.Offset():
        raise UnsupportedModelError("ends that count from the beginnings (offset) are not supported")
    return importer.convert_strided_slice(op)


def cumsum(importer: Any, op: Any) -> Any:
    data, axis = importer.get_input_tensors(op)
    along_axis = int(np.ravel(importer.get_tensor_value(axis))[0])
    options = options_of(op, tflite.CumsumOptions)
    expr = importer.get_tensor_expr(data)
    backwards = options is not None and options.Reverse()
    expr = relax.op.flip(expr, along_axis) if backwards else expr
    dtype = importer.get_tensor_type_str(importer.get_output_tensors(op)[0].tensor.Type())
    summed = relax.op.cumsum(expr, along_axis, dtype, options is not None and options.Exclusive())
    return relax.op.flip(summed, along_axis) if backwards else summed


def split_v(importer: Any, op: Any) -> Any:
    """One of the sizes may be -1: what the others leave."""
    data, sizes, axis = importer.get_input_tensors(op)
    expr, place = importer.get_tensor_expr(data), int(np.ravel(importer.get_tensor_value(axis))[0])
    parts = [int(n) for n in np.ravel(importer.get_tensor_value(sizes))]
    total = int(importer.get_tensor_shape(data)[place])
    parts = [total - sum(n for n in parts if n >= 0) if n < 0 else n for n in parts]
    if len(parts) == 1:
        return expr
    return relax.op.split(expr, [int(n) for n in np.cumsum(parts)[:-1]], axis=place)


def batch_matmul(importer: Any, op: Any) -> Any:
    """Products of the last two axes; the others broadcast, as Relax's `matmul` has them."""
    options = options_of(op, tflite.BatchMatMulOptions)
    turned = (False, False) if options is None else (options.AdjX(), options.AdjY())
    return relax.op.matmul(
        *(
            _turned(importer, t) if turn else importer.get_tensor_expr(t)
            for t, turn in zip(importer.get_input_tensors(op), turned, strict=True)
        )
    )


def _turned(importer: Any, tensor: Any) -> Any:
    rank = len(importer.get_tensor_shape(tensor))
    return relax.op.permute_dims(importer.get_tensor_expr(tensor), [*range(rank - 2), rank - 1, rank - 2])


def fully_connected(importer: Any, op: Any) -> Any:
    """Rows of the weight's length, whatever axes they are in; the result keeps these where the file says so."""
    data, weight, *biases = importer.get_input_tensors(op)
    options = options_of(op, tflite.FullyConnectedOptions)
    shape = [int(n) for n in importer.get_tensor_shape(data)]
    length = int(importer.get_tensor_shape(weight)[1])
    expr = importer.get_tensor_expr(data)
    if shape[-1] != length or not (len(shape) == 2 or (options is not None and options.KeepNumDims())):
        expr = relax.op.reshape(expr, [math.prod(shape) // length, length])
    out = relax.op.matmul(expr, relax.op.permute_dims(importer.get_tensor_expr(weight), [1, 0]))
    for bias in biases:
        if bias.tensor_idx >= 0:
            out = relax.op.add(out, importer.get_tensor_expr(bias))
    return (
        out if options is None else importer.convert_fused_activation_function(out, options.FusedActivationFunction())
    )


def squeeze(importer: Any, op: Any) -> Any:
    """Axes of size 1: those listed, or all of them."""
    options = options_of(op, tflite.SqueezeOptions)
    listed = [] if options is None or not options.SqueezeDimsLength() else options.SqueezeDimsAsNumpy().tolist()
    return relax.op.squeeze(importer.get_tensor_expr(importer.get_input_tensors(op)[0]), listed or None)


def select(importer: Any, op: Any) -> Any:
    """A condition of one axis chooses rows."""
    tensors = importer.get_input_tensors(op)
    condition, x, y = (importer.get_tensor_expr(t) for t in tensors)
    rank = len(importer.get_tensor_shape(tensors[1]))
    if len(importer.get_tensor_shape(tensors[0])) == 1 and rank > 1:
        condition = relax.op.reshape(condition, [-1, *[1] * (rank - 1)])
    return relax.op.where(condition, x, y)


def embedding_lookup(importer: Any, op: Any) -> Any:
    indices, rows = (importer.get_tensor_expr(t) for t in importer.get_input_tensors(op))
    return relax.op.take(rows, indices, axis=0, mode="clip")


def cast(importer: Any, op: Any) -> Any:
    """To what the result is; the options may say otherwise, or nothing."""
    wanted = importer.get_tensor_type_str(importer.get_output_tensors(op)[0].tensor.Type())
    return relax.op.astype(importer.get_tensor_expr(importer.get_input_tensors(op)[0]), wanted)


def square(importer: Any, op: Any) -> Any:
    data = importer.get_tensor_expr(importer.get_input_tensors(op)[0])
    return relax.op.multiply(data, data)


def squared_difference(importer: Any, op: Any) -> Any:
    x, y = (importer.get_tensor_expr(t) for t in importer.get_input_tensors(op))
    difference = importer.bb.normalize(relax.op.subtract(x, y))
    return relax.op.multiply(difference, difference)


def power(importer: Any, op: Any, standard: TFLiteConverter) -> Any:
    if importer.get_output_tensors(op)[0].tensor.Type() != tflite.TensorType.FLOAT32:
        raise UnsupportedModelError("powers of integers are not supported")
    return standard(op=op)


def sequence_rnn(importer: Any, op: Any, standard: TFLiteConverter) -> Any:
    """`standard` gives [batch, time, units] even where the file has time first."""
    out = standard(op=op)
    return relax.op.permute_dims(out, [1, 0, 2]) if options_of(op, tflite.SequenceRNNOptions).TimeMajor() else out


class _Multiplied:
    """A depthwise convolution whose options say another multiplier, and otherwise the same."""

    def __init__(self, op: Any, o: Any, multiplier: int) -> None:
        self._op = op
        fields = (o.Padding(), o.StrideW(), o.StrideH(), multiplier, o.FusedActivationFunction())
        # A FlatBuffers table: sizes and the seven fields' places, two bytes to align, the way back, the fields.
        places = struct.pack("<9H2xi", 18, 32, *range(4, 32, 4), 20)
        self._bytes = places + struct.pack("<7i", *fields, o.DilationWFactor(), o.DilationHFactor())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._op, name)

    def BuiltinOptions(self) -> Any:
        return SimpleNamespace(Bytes=self._bytes, Pos=20)


def depthwise(importer: Any, op: Any, standard: TFLiteConverter) -> Any:
    """LiteRT takes the multiplier from the channels, whatever the file says; some say 0."""
    options = options_of(op, tflite.DepthwiseConv2DOptions)
    inputs, outputs = (int(importer.get_tensor_shape(t)[3]) for t in importer.get_input_tensors(op)[:2])
    if outputs % inputs:
        raise UnsupportedModelError(f"its {outputs} filters are no multiple of its {inputs} input channels")
    multiplier = outputs // inputs
    if options is None or options.DepthMultiplier() == multiplier:
        return standard(op=op)
    return standard(op=_Multiplied(op, options, multiplier))


def reshape(importer: Any, op: Any, standard: TFLiteConverter) -> Any:
    """To the size in the file where the graph computes it from sizes, as for an open batch."""
    data, *shapes = importer.get_input_tensors(op)
    if not shapes or importer.constants.has(shapes[0].tensor_idx):
        return standard(op=op)
    if not _of_sizes(importer, shapes[0].tensor_idx):
        raise UnsupportedModelError("its shape is computed from data; convert the model with static shapes")
    wanted = [int(n) for n in importer.get_output_tensors(op)[0].tensor.ShapeAsNumpy()]
    return relax.op.reshape(importer.get_tensor_expr(data), wanted)


def _of_sizes(importer: Any, index: int) -> bool:
    """Whether a tensor depends on constants and on sizes of tensors alone."""
    if index < 0 or importer.constants.has(index):
        return True
    for op in map(importer.subgraph.Operators, range(importer.subgraph.OperatorsLength())):
        if index in op.OutputsAsNumpy():
            return importer.get_op_code_str(op) == "SHAPE" or all(
                _of_sizes(importer, int(i)) for i in op.InputsAsNumpy()
            )
    return False


def branching(importer: Any, op: Any) -> Any:
    raise UnsupportedModelError("what the network decides as it runs is not supported; convert the model without it")


def stateful(importer: Any, op: Any) -> Any:
    """What such an operator keeps from one run to the next has no place in a library without state."""
    raise UnsupportedModelError("it keeps a state between runs; make that an input and an output of the model")


def overrides(importer: Any, converters: dict[str, TFLiteConverter]) -> dict[str, TFLiteConverter]:
    """Operator -> its converter here, of those that TVM's `converters` read wrongly."""
    plain: Sequence[tuple[str, TFLiteConverter]] = (
        ("SOFTMAX", softmax),
        ("GELU", gelu),
        ("STRIDED_SLICE", strided_slice),
        ("CUMSUM", cumsum),
        ("SPLIT_V", split_v),
        ("MIRROR_PAD", mirror_pad),
        ("RESIZE_BILINEAR", functools.partial(resize, linear=True)),
        ("RESIZE_NEAREST_NEIGHBOR", functools.partial(resize, linear=False)),
        ("GATHER", gather),
        ("GATHER_ND", gather_nd),
        ("SCATTER_ND", scatter_nd),
        ("BATCH_TO_SPACE_ND", batch_to_space),
        ("SPACE_TO_BATCH_ND", space_to_batch),
        ("BATCH_MATMUL", batch_matmul),
        ("FULLY_CONNECTED", fully_connected),
        ("SQUEEZE", squeeze),
        ("SELECT", select),
        ("EMBEDDING_LOOKUP", embedding_lookup),
        ("CAST", cast),
        ("SQUARE", square),
        ("SQUARED_DIFFERENCE", squared_difference),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", lstm),
        ("BIDIRECTIONAL_SEQUENCE_LSTM", bidirectional_lstm),
        ("LSTM", stateful),
        ("SVDF", stateful),
        ("IF", branching),
        ("WHILE", branching),
    )
    found = {name: functools.partial(function, importer) for name, function in plain}
    standard = dict.fromkeys(_REDUCTIONS, reduce) | {
        "POW": power,
        "DEPTHWISE_CONV_2D": depthwise,
        "UNIDIRECTIONAL_SEQUENCE_RNN": sequence_rnn,
        "RESHAPE": reshape,
    }
    return found | {name: functools.partial(f, importer, standard=converters[name]) for name, f in standard.items()}
