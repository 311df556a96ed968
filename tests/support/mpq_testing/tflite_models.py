"""TFLite files written byte by byte through their schema; `classifier_tensors`: convolution, relu, reshape, dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import tflite

TYPES = {
    "float32": tflite.TensorType.FLOAT32,
    "float16": tflite.TensorType.FLOAT16,
    "int8": tflite.TensorType.INT8,
    "int32": tflite.TensorType.INT32,
    "bool": tflite.TensorType.BOOL,
}


@dataclass
class Sparsity:
    """How the numbers of a sparse tensor lie. levels: a size, or (segments, indices) of the places that are kept."""

    order: tuple[int, ...]
    blocks: tuple[int, ...]
    levels: tuple[Any, ...]
    dtype: str = "int32"


@dataclass
class Tensor:
    name: str
    shape: tuple[int, ...]
    data: Any = None
    dtype: str = "float32"
    scales: tuple[float, ...] = ()
    zeros: tuple[int, ...] = ()
    dynamic: int = 0  # how many of the first axes are free
    variable: bool = False
    sparsity: Sparsity | None = None


def _ints(b: Any, values: Any) -> Any:
    return b.CreateNumpyVector(np.array(values, np.int32))


def _offsets(b: Any, items: Sequence[int], start: Any) -> Any:
    start(b, len(items))
    for item in reversed(items):
        b.PrependUOffsetTRelative(item)
    return b.EndVector()


_VECTORS = {"int32": "Int32Vector", "uint16": "Uint16Vector", "uint8": "Uint8Vector"}


def _sparsity(b: Any, sparsity: Sparsity) -> Any:
    name, made = _VECTORS[sparsity.dtype], []
    for level in sparsity.levels:
        lists = []
        for values in () if isinstance(level, int) else level:
            place = b.CreateNumpyVector(np.array(values, sparsity.dtype))
            getattr(tflite, f"{name}Start")(b)
            getattr(tflite, f"{name}AddValues")(b, place)
            lists.append(getattr(tflite, f"{name}End")(b))
        tflite.DimensionMetadataStart(b)
        if isinstance(level, int):
            tflite.DimensionMetadataAddDenseSize(b, level)
        else:
            tflite.DimensionMetadataAddFormat(b, tflite.DimensionType.SPARSE_CSR)
            tflite.DimensionMetadataAddArraySegmentsType(b, getattr(tflite.SparseIndexVector, name))
            tflite.DimensionMetadataAddArraySegments(b, lists[0])
            tflite.DimensionMetadataAddArrayIndicesType(b, getattr(tflite.SparseIndexVector, name))
            tflite.DimensionMetadataAddArrayIndices(b, lists[1])
        made.append(tflite.DimensionMetadataEnd(b))
    order, blocks = _ints(b, sparsity.order), _ints(b, sparsity.blocks)
    levels = _offsets(b, made, tflite.SparsityParametersStartDimMetadataVector)
    tflite.SparsityParametersStart(b)
    tflite.SparsityParametersAddTraversalOrder(b, order)
    tflite.SparsityParametersAddBlockMap(b, blocks)
    tflite.SparsityParametersAddDimMetadata(b, levels)
    return tflite.SparsityParametersEnd(b)


def _tensor(b: Any, tensor: Tensor, buffer: int) -> Any:
    name, shape = b.CreateString(tensor.name), _ints(b, tensor.shape)
    signature = _ints(b, (*[-1] * tensor.dynamic, *tensor.shape[tensor.dynamic :])) if tensor.dynamic else None
    quantization = None
    if tensor.scales:
        scale = b.CreateNumpyVector(np.array(tensor.scales, np.float32))
        zero = b.CreateNumpyVector(np.array(tensor.zeros or [0] * len(tensor.scales), np.int64))
        tflite.QuantizationParametersStart(b)
        tflite.QuantizationParametersAddScale(b, scale)
        tflite.QuantizationParametersAddZeroPoint(b, zero)
        quantization = tflite.QuantizationParametersEnd(b)
    sparsity = _sparsity(b, tensor.sparsity) if tensor.sparsity else None
    tflite.TensorStart(b)
    tflite.TensorAddName(b, name)
    tflite.TensorAddShape(b, shape)
    tflite.TensorAddType(b, TYPES[tensor.dtype])
    tflite.TensorAddBuffer(b, buffer)
    tflite.TensorAddIsVariable(b, tensor.variable)
    if signature is not None:
        tflite.TensorAddShapeSignature(b, signature)
    if sparsity is not None:
        tflite.TensorAddSparsity(b, sparsity)
    if quantization is not None:
        tflite.TensorAddQuantization(b, quantization)
    return tflite.TensorEnd(b)


def conv_options(b: Any) -> Any:
    tflite.Conv2DOptionsStart(b)
    tflite.Conv2DOptionsAddPadding(b, tflite.Padding.SAME)
    tflite.Conv2DOptionsAddStrideH(b, 2)
    tflite.Conv2DOptionsAddStrideW(b, 2)
    tflite.Conv2DOptionsAddFusedActivationFunction(b, tflite.ActivationFunctionType.RELU)
    return tflite.Conv2DOptionsEnd(b)


def reshape_options(b: Any) -> Any:
    tflite.ReshapeOptionsStart(b)
    return tflite.ReshapeOptionsEnd(b)


def dense_options(b: Any) -> Any:
    tflite.FullyConnectedOptionsStart(b)
    return tflite.FullyConnectedOptionsEnd(b)


def dequantize_options(b: Any) -> Any:
    tflite.DequantizeOptionsStart(b)
    return tflite.DequantizeOptionsEnd(b)


def expand_options(b: Any) -> Any:
    tflite.ExpandDimsOptionsStart(b)
    return tflite.ExpandDimsOptionsEnd(b)


OPERATORS = [  # builtin operator, its options, its inputs and output by tensor index
    (tflite.BuiltinOperator.CONV_2D, tflite.BuiltinOptions.Conv2DOptions, conv_options, (0, 1, 2), 3),
    (tflite.BuiltinOperator.RESHAPE, tflite.BuiltinOptions.ReshapeOptions, reshape_options, (3, 4), 5),
    (tflite.BuiltinOperator.FULLY_CONNECTED, tflite.BuiltinOptions.FullyConnectedOptions, dense_options, (5, 6, 7), 8),
]


def write(
    path: Path,
    tensors: list[Tensor],
    first_operator: int | None = None,
    graph_operators: Sequence[Any] = OPERATORS,
    custom: str | None = None,
    outputs: Sequence[int] | None = None,
) -> Path:
    """outputs: tensors the graph gives, the last where None. An operator's own output: one tensor or several."""
    b = flatbuffers.Builder(1024)
    custom_code = b.CreateString(custom) if custom else None
    buffers, places = [], []
    for data in [None, *[t.data for t in tensors if t.data is not None]]:
        content = b.CreateByteVector(data.tobytes()) if data is not None else None
        tflite.BufferStart(b)
        if content is not None:
            tflite.BufferAddData(b, content)
        buffers.append(tflite.BufferEnd(b))
    for tensor in tensors:
        places.append(0 if tensor.data is None else 1 + sum(p > 0 for p in places))
    made = [_tensor(b, t, p) for t, p in zip(tensors, places, strict=True)]
    codes, operators = [], []
    for i, (builtin, kind, options, inputs, output) in enumerate(graph_operators):
        code = first_operator if i == 0 and first_operator is not None else builtin
        tflite.OperatorCodeStart(b)
        tflite.OperatorCodeAddBuiltinCode(b, code)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
        if custom_code is not None and i == 0:
            tflite.OperatorCodeAddCustomCode(b, custom_code)
        codes.append(tflite.OperatorCodeEnd(b))
        opts, ins = options(b) if options else None, _ints(b, inputs)
        outs = _ints(b, [output] if isinstance(output, int) else output)
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, i)
        tflite.OperatorAddInputs(b, ins)
        tflite.OperatorAddOutputs(b, outs)
        if opts is not None:
            tflite.OperatorAddBuiltinOptionsType(b, kind)
            tflite.OperatorAddBuiltinOptions(b, opts)
        operators.append(tflite.OperatorEnd(b))
    tensor_list = _offsets(b, made, tflite.SubGraphStartTensorsVector)
    operator_list = _offsets(b, operators, tflite.SubGraphStartOperatorsVector)
    ins, outs = _ints(b, [0]), _ints(b, [len(tensors) - 1] if outputs is None else outputs)
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, tensor_list)
    tflite.SubGraphAddOperators(b, operator_list)
    tflite.SubGraphAddInputs(b, ins)
    tflite.SubGraphAddOutputs(b, outs)
    graph = tflite.SubGraphEnd(b)
    graphs = _offsets(b, [graph], tflite.ModelStartSubgraphsVector)
    code_list = _offsets(b, codes, tflite.ModelStartOperatorCodesVector)
    buffer_list = _offsets(b, buffers, tflite.ModelStartBuffersVector)
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, code_list)
    tflite.ModelAddSubgraphs(b, graphs)
    tflite.ModelAddBuffers(b, buffer_list)
    b.Finish(tflite.ModelEnd(b), b"TFL3")
    path.write_bytes(bytes(b.Output()))
    return path


def operator(code: str, inputs: tuple[int, ...], output: Any, options: str = "", **fields: Any) -> Any:
    """One of the schema's operators. options: name of its table, such as `Pool2DOptions`, whose `fields` these are."""

    def table(b: Any) -> Any:
        lists = {
            name: _ints(b, value)  # made before the table, as flatbuffers wants it
            for name, value in fields.items()
            if isinstance(value, (list, tuple))
        }
        getattr(tflite, f"{options}Start")(b)
        for name, value in fields.items():
            getattr(tflite, f"{options}Add{name}")(b, lists.get(name, value))
        return getattr(tflite, f"{options}End")(b)

    kind = getattr(tflite.BuiltinOptions, options) if options else 0
    return getattr(tflite.BuiltinOperator, code), kind, table if options else None, inputs, output


def transposed_operator(padding: int, strides: tuple[int, int], activation: int) -> Any:
    def options(b: Any) -> Any:
        tflite.TransposeConvOptionsStart(b)
        tflite.TransposeConvOptionsAddPadding(b, padding)
        tflite.TransposeConvOptionsAddStrideH(b, strides[0])
        tflite.TransposeConvOptionsAddStrideW(b, strides[1])
        tflite.TransposeConvOptionsAddFusedActivationFunction(b, activation)
        return tflite.TransposeConvOptionsEnd(b)

    kinds = tflite.BuiltinOperator.TRANSPOSE_CONV, tflite.BuiltinOptions.TransposeConvOptions
    return (*kinds, options, (2, 1, 0, 3), 4)


def classifier_tensors(rng: np.random.Generator) -> list[Tensor]:
    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    return [
        Tensor("serving_input:0", (1, 4, 4, 2), dynamic=1),
        Tensor("model/conv2d/Conv2D", (3, 3, 3, 2), normal(3, 3, 3, 2)),
        Tensor("model/conv2d/BiasAdd/ReadVariableOp/resource", (3,), normal(3)),
        Tensor("model/conv2d/Relu;model/conv2d/BiasAdd;model/conv2d/Conv2D1", (1, 2, 2, 3)),
        Tensor("model/flatten/Const", (2,), np.array([-1, 12], np.int32), "int32"),
        Tensor("model/flatten/Reshape", (1, 12)),
        Tensor("model/dense/MatMul", (5, 12), normal(5, 12)),
        Tensor("model/dense/BiasAdd/ReadVariableOp", (5,), normal(5)),
        Tensor("Identity", (1, 5)),
    ]


def classified(tensors: list[Tensor], x: Any) -> Any:
    """What the classifier of these tensors gives for float32[N, 4, 4, 2], in float64."""
    weight, bias, dense, dense_bias = (tensors[i].data.astype(np.float64) for i in (1, 2, 6, 7))
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))  # SAME at stride 2: one row and column behind
    y = np.zeros((len(x), 2, 2, 3))
    for i in range(2):
        for j in range(2):
            y[:, i, j] = np.einsum("nhwc,ohwc->no", padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], weight) + bias
    return np.maximum(y, 0).reshape(len(x), -1) @ dense.T + dense_bias
