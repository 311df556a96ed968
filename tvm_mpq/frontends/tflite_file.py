"""TFLite files with float32 activations; weights may be stored as int8 (dynamic range), they are dequantized."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tflite
from tvm import relax
from tvm.relax.frontend.tflite import from_tflite
from tvm.relax.frontend.tflite.tflite_frontend import OperatorConverter

from tvm_mpq.errors import FileFormatError, UnsupportedModelError
from tvm_mpq.frontends.checks import GenericArray, check_values, one_line
from tvm_mpq.frontends.imported import Imported, abandon
from tvm_mpq.frontends.shapes import Shapes
from tvm_mpq.frontends.tflite_names import WEIGHT_INPUT, OperatorTensors, operator_names

_INTEGER_WEIGHTS = {tflite.TensorType.INT8: np.int8, tflite.TensorType.UINT8: np.uint8}


def load_tflite(file: Path, shapes: Shapes) -> Imported:
    """Import `file` with static shapes.

    Raises
    ------
    FileFormatError
        If it is not a TFLite file, or is cut short.
    UnsupportedModelError
        For unknown operators, dynamic shapes, models with integer activations, and non-finite weights.
    """
    data = file.read_bytes()
    if data[4:8] != b"TFL3":
        raise FileFormatError(f"{str(file)!r} is not a TFLite file (bytes 4 to 8 must be 'TFL3')")
    try:
        model = tflite.Model.GetRootAsModel(data, 0)
        graph = model.Subgraphs(0)
        inputs = [graph.Tensors(int(i)) for i in graph.InputsAsNumpy()]
        _check_float(graph, file)
        check_values(_constants(model, graph))
        _check_names(graph, file)
        static = shapes.fix({t.Name().decode(): _shape(t) for t in inputs})
    except (struct.error, IndexError, AttributeError, TypeError, UnicodeDecodeError, MemoryError) as e:
        raise FileFormatError(f"{str(file)!r} is damaged or cut short; copy it again ({one_line(e)})") from e
    importers: list[_Importer] = []
    stored = [tuple(int(n) for n in t.ShapeAsNumpy()) if t.ShapeLength() else () for t in inputs]

    def importer(*args: Any) -> _Importer:
        importers.append(_Importer(*args))
        importers[0].resized = list(static.values()) != stored
        return importers[0]

    with contextlib.redirect_stdout(io.StringIO()):
        try:
            mod = from_tflite(model, shape_dict=dict(static), op_converter=importer)
        except Exception as e:
            for started in importers:
                abandon(started.bb)
            what = str(e) if isinstance(e, UnsupportedModelError) else f"cannot be imported: {one_line(e)}"
            raise UnsupportedModelError(f"{file.name}: {what}") from e
    imported = Imported(mod, importers[0].owners, tuple(static))
    count = len(importers[0].dequantized)
    if count:
        imported.notes.append(f"int8 weights of {count} tensors (dynamic range quantization) dequantized to float32")
    return imported


def _shape(tensor: Any) -> list[int | str | None]:
    """The signature says which axes are dynamic; old files have none."""
    has_signature = tensor.ShapeSignatureLength() == tensor.ShapeLength()
    sizes = tensor.ShapeSignatureAsNumpy() if has_signature and tensor.ShapeLength() else tensor.ShapeAsNumpy()
    return [int(s) if s > 0 else None for s in np.atleast_1d(sizes)] if tensor.ShapeLength() else []


def _is_quantized(tensor: Any) -> bool:
    quantization = tensor.Quantization()
    return tensor.Type() in _INTEGER_WEIGHTS and quantization is not None and quantization.ScaleLength() > 0


def _check_float(graph: Any, file: Path) -> None:
    """Integer activations: an operator with a quantized first input or output, or such a network input or output."""
    indices = [*graph.InputsAsNumpy(), *graph.OutputsAsNumpy()]
    for i in range(graph.OperatorsLength()):
        op = graph.Operators(i)
        indices += [*op.OutputsAsNumpy()[:1]]
    quantized = next((t for t in (graph.Tensors(int(i)) for i in indices) if _is_quantized(t)), None)
    if quantized is not None:
        raise UnsupportedModelError(
            f"{file.name}: the model is quantized already (integer tensor {quantized.Name().decode()!r}); "
            "give the float32 model, converted without quantization"
        )


def _check_names(graph: Any, file: Path) -> None:
    """TVM's importer knows tensors by name, and takes the first of two with the same one."""
    seen: set[str] = set()
    for i in range(graph.OperatorsLength()):
        for index in graph.Operators(i).OutputsAsNumpy():
            name = (graph.Tensors(int(index)).Name() or b"").decode()
            if name in seen:
                raise UnsupportedModelError(f"{file.name}: two tensors have the name {name!r}; convert the model again")
            seen.add(name)


def _constants(model: Any, graph: Any) -> Iterator[tuple[str, GenericArray]]:
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        buffer = model.Buffers(tensor.Buffer())
        if tensor.Type() == tflite.TensorType.FLOAT32 and buffer.DataLength():
            yield tensor.Name().decode(), np.frombuffer(buffer.DataAsNumpy(), np.float32)


class _FloatTensor:
    """An int8 weight tensor of a float operator, seen as the float32 tensor it stands for."""

    def __init__(self, tensor: Any) -> None:
        self.quantized = tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.quantized, name)

    def Type(self) -> int:
        return int(tflite.TensorType.FLOAT32)

    def Quantization(self) -> None:
        return None


class _ResizedTensor:
    """A tensor of a network whose inputs have other sizes than the file's. shape: None = not known yet."""

    def __init__(self, tensor: Any, shape: Sequence[int] | None) -> None:
        self._tensor, self._shape = tensor, shape

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensor, name)

    def ShapeAsNumpy(self) -> npt.NDArray[np.int32]:
        if self._shape is None:
            raise UnsupportedModelError(
                "it has its result's size from the file; convert the model with the sizes wanted"
            )
        return np.array(self._shape, np.int32)

    def Shape(self, axis: int) -> int:
        return int(self.ShapeAsNumpy()[axis])


class _Importer(OperatorConverter):
    """TVM's importer with dynamic range weights dequantized and a record of who made which variable.

    owners: name of the variable that holds an operator's result -> the operator's name. dequantized: tensor names.
    resized: inputs have other sizes than in the file, and with them what is computed from them.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.owners: dict[str, str] = {}
        self.dequantized: set[str] = set()
        self.resized = False

    def get_tensors(self, tensors_idx_list: Any) -> list[Any]:
        wrappers: list[Any] = super().get_tensors(tensors_idx_list)
        for wrapper in wrappers:
            if self.resized and wrapper.tensor_idx >= 0 and not wrapper.buffer.DataLength():
                expr = self.get_expr(wrapper.tensor_idx) if self.has_expr(wrapper.tensor_idx) else None
                shape = [int(n) for n in self._infer_shape(expr)] if expr is not None else None
                wrapper.tensor = _ResizedTensor(wrapper.tensor, shape)
            if wrapper.tensor_idx >= 0 and _is_quantized(wrapper.tensor) and wrapper.buffer.DataLength():
                wrapper.tensor = _FloatTensor(wrapper.tensor)
                wrapper.qnn_params = None
        return wrappers

    def get_tensor_value(self, tensor_wrapper: Any, is_sparse: bool = False) -> Any:
        if not isinstance(tensor_wrapper.tensor, _FloatTensor):
            return super().get_tensor_value(tensor_wrapper, is_sparse)
        tensor = tensor_wrapper.tensor.quantized
        quantization = tensor.Quantization()
        shape = tuple(int(n) for n in tensor.ShapeAsNumpy())
        raw = np.frombuffer(tensor_wrapper.buffer.DataAsNumpy(), _INTEGER_WEIGHTS[tensor.Type()]).reshape(shape)
        scale = np.atleast_1d(quantization.ScaleAsNumpy()).astype(np.float32)
        zero = np.atleast_1d(quantization.ZeroPointAsNumpy()).astype(np.int32)
        along = [1] * len(shape)
        if scale.size > 1:
            along[quantization.QuantizedDimension()] = scale.size
            scale, zero = scale.reshape(along), np.broadcast_to(zero, (scale.size,)).reshape(along)
        self.dequantized.add(tensor.Name().decode())
        return ((raw.astype(np.int32) - zero) * scale).astype(np.float32)

    def convert_transpose_conv(self, op: Any) -> Any:
        """TVM's result in NCHW, which it can compile, with the size and the activation that it leaves out."""
        result = super().convert_transpose_conv(op)
        options = tflite.TransposeConvOptions()
        options.Init(op.BuiltinOptions().Bytes, op.BuiltinOptions().Pos)
        size = [int(n) for n in self.get_output_tensors(op)[0].tensor.ShapeAsNumpy()[1:3]]
        return self.convert_fused_activation_function(_sized(result, size), options.FusedActivationFunction())

    def convert_op_to_relax(self) -> None:
        operators = [self.subgraph.Operators(i) for i in range(self.subgraph.OperatorsLength())]
        names = operator_names([self._tensors_of(op) for op in operators])
        for op, name in zip(operators, names, strict=True):
            kind = self.get_op_code_str(op)
            try:
                result = self.convert_map[kind](op=op)
            except Exception as e:
                raise UnsupportedModelError(f"operator {kind} ({name!r}) cannot be imported: {one_line(e)}") from e
            if result is None:  # its constant output is handed on another way
                continue
            result = self.bb.normalize(result)
            if isinstance(result, relax.Call):
                result = self.bb.emit(result)
            if isinstance(result, relax.Var):
                self.owners.setdefault(str(result.name), name)
            outputs = self.get_output_tensors(op)
            for i, output in enumerate(outputs):
                self.exp_tab.set_expr(output.tensor.Name().decode(), result if len(outputs) == 1 else result[i])

    def _tensors_of(self, op: Any) -> OperatorTensors:
        kind = self.get_op_code_str(op)
        place = WEIGHT_INPUT.get(kind)
        weight = None
        if place is not None and op.InputsLength() > place:
            weight = self.subgraph.Tensors(op.Inputs(place)).Name().decode()
        return OperatorTensors(kind, weight, self.subgraph.Tensors(op.Outputs(0)).Name().decode())


def _sized(expr: relax.Call, size: list[int]) -> relax.Call:
    """An NHWC transposed convolution, or its sum with a bias, as an NCHW one between permutes, of this output size."""
    if expr.op.name != "relax.nn.conv2d_transpose":
        return relax.op.add(_sized(expr.args[0], size), expr.args[1])
    (data, weight), attrs = expr.args, expr.attrs
    rows, kernel = ([int(n) for n in shape] for shape in (data.ty.shape.values[1:3], weight.ty.shape.values[2:]))
    strides, padding = [int(s) for s in attrs.strides], [int(p) for p in attrs.padding]
    axes = enumerate(zip(size, rows, strides, kernel, strict=True))
    extra = [n - (r - 1) * s - k + padding[i] + padding[i + 2] for i, (n, r, s, k) in axes]
    maps = relax.op.permute_dims(data, (0, 3, 1, 2))
    return relax.op.permute_dims(relax.op.nn.conv2d_transpose(maps, weight, strides, padding, extra), (0, 2, 3, 1))
