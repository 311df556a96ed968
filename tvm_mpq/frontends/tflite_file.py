"""TFLite files. Integers, of weights alone or of the whole network, are read as the float32 numbers they stand for."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from tvm import relax
from tvm.relax.frontend.tflite import from_tflite
from tvm.relax.frontend.tflite.tflite_frontend import OperatorConverter

from tvm_mpq.errors import FileFormatError, UnsupportedModelError
from tvm_mpq.frontends.checks import GenericArray, check_values, one_line
from tvm_mpq.frontends.imported import Imported, abandon
from tvm_mpq.frontends.shapes import Shapes
from tvm_mpq.frontends.tflite_constants import Constants, SeenTensor, UnsizedTensor, affine_of
from tvm_mpq.frontends.tflite_names import WEIGHT_INPUT, OperatorTensors, operator_names
from tvm_mpq.frontends.tflite_operators import overrides
from tvm_mpq.frontends.tflite_reference import LiteRTReference
from tvm_mpq.schema import StoredQuantization

_OF_BOTH_SIGNS = frozenset(
    ["ADD", "BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "SUB", "TRANSPOSE_CONV"]
)
"""Operators whose results no quantizer takes for non-negative, unless an activation behind them makes them so."""


def load_tflite(file: Path, shapes: Shapes) -> Imported:
    """Import `file` with static shapes.

    Raises
    ------
    FileFormatError
        If it is not a TFLite file, or is cut short.
    UnsupportedModelError
        For unknown operators, dynamic shapes, and non-finite weights.
    """
    data = file.read_bytes()
    if data[4:8] != b"TFL3":
        raise FileFormatError(f"{str(file)!r} is not a TFLite file (bytes 4 to 8 must be 'TFL3')")
    try:
        model = tflite.Model.GetRootAsModel(data, 0)
        graph = model.Subgraphs(0)
        inputs = [graph.Tensors(int(i)) for i in graph.InputsAsNumpy()]
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
            mod = from_tflite(model, shape_dict=dict(static), dtype_dict=_reals(inputs), op_converter=importer)
        except Exception as e:
            for started in importers:
                abandon(started.bb)
            what = str(e) if isinstance(e, UnsupportedModelError) else f"cannot be imported: {one_line(e)}"
            raise UnsupportedModelError(f"{file.name}: {what}") from e
    made = importers[0]
    imported = Imported(mod, made.owners, tuple(static), tensors=made.sources)
    rounds = ""
    if made.stored.tensors:
        rounds = "LiteRT computes this file with integers, and rounds where the float32 network does not"
        imported.stored = made.stored
        note = "the network was quantized elsewhere: inputs and outputs are float32, the numbers that its integers"
        imported.notes.append(f"{note} stand for, and so are weights")
    elif made.constants.rounded:
        rounds = "LiteRT rounds activations that meet int8 weights, where the float32 network does not"
        count = len(made.constants.rounded)
        imported.notes.append(f"int8 weights of {count} tensors (dynamic range quantization) dequantized to float32")
    if made.recurrent:
        imported.notes.append(
            "states of recurrent layers are zero when a run starts; LiteRT keeps them from run to run"
        )
    imported.reference = LiteRTReference(data, static, rounds)
    return imported


def _reals(inputs: Sequence[Any]) -> dict[str, str]:
    """Inputs whose integers stand for real numbers are given as these."""
    return {t.Name().decode(): "float32" for t in inputs if affine_of(t) is not None}


def _shape(tensor: Any) -> list[int | str | None]:
    """The signature says which axes are dynamic; old files have none."""
    has_signature = tensor.ShapeSignatureLength() == tensor.ShapeLength()
    sizes = tensor.ShapeSignatureAsNumpy() if has_signature and tensor.ShapeLength() else tensor.ShapeAsNumpy()
    return [int(s) if s > 0 else None for s in np.atleast_1d(sizes)] if tensor.ShapeLength() else []


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


class _Importer(OperatorConverter):
    """TVM's importer, shown a network of real numbers, with a record of who made which variable.

    owners: name of the variable that holds an operator's result -> the operator's name. sources: the same variables ->
    the tensor in the file. resized: inputs have other sizes than in the file, and with them what is computed from them.
    stored: by the names of variables.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.owners: dict[str, str] = {}
        self.sources: dict[str, str] = {}
        self.resized = False
        self.constants = Constants(self.model, self.subgraph)
        self.stored = StoredQuantization()
        self._differ: set[str] = set()
        self.replaced: dict[int, GenericArray] = {}  # tensor -> its numbers, where they are read otherwise than stored
        self._kind = ""
        self.recurrent = False
        self.convert_map |= overrides(self, self.convert_map)
        self.convert_map |= {"QUANTIZE": self._same, "DEQUANTIZE": self._same, "EXPAND_DIMS": self._expand_dims}

    def get_op_code_str(self, op: Any) -> str:
        code = self.model.OperatorCodes(op.OpcodeIndex())
        if code.BuiltinCode() == tflite.BuiltinOperator.CUSTOM and code.CustomCode() != b"TFLite_Detection_PostProcess":
            raise UnsupportedModelError(f"custom operator {(code.CustomCode() or b'').decode()!r} is not supported")
        return str(super().get_op_code_str(op))

    def get_tensors(self, tensors_idx_list: Any) -> list[Any]:
        wrappers: list[Any] = super().get_tensors(tensors_idx_list)
        for wrapper in wrappers:
            index = wrapper.tensor_idx
            if index < 0:
                continue
            constant, real = self.constants.has(index), self.constants.is_real(index)
            if self.resized and not constant:
                if self.has_expr(index):
                    shape = [int(n) for n in self._infer_shape(self.get_expr(index))]
                    wrapper.tensor = SeenTensor(wrapper.tensor, shape, real=real)
                else:
                    wrapper.tensor = UnsizedTensor(wrapper.tensor, real=real)
            elif real:
                wrapper.tensor = SeenTensor(wrapper.tensor, real=True)
            if real:
                wrapper.qnn_params = None
        return wrappers

    def get_tensor_value(self, tensor_wrapper: Any, is_sparse: bool = False) -> Any:
        if tensor_wrapper.tensor.IsVariable() and not self.constants.has(tensor_wrapper.tensor_idx):
            return np.zeros([int(n) for n in tensor_wrapper.tensor.ShapeAsNumpy()], np.float32)
        if tensor_wrapper.tensor_idx in self.replaced:
            return self.replaced[tensor_wrapper.tensor_idx]
        real = isinstance(tensor_wrapper.tensor, SeenTensor) and tensor_wrapper.tensor.real
        if not real and tensor_wrapper.tensor.Sparsity() is None:
            return super().get_tensor_value(tensor_wrapper, is_sparse)
        return self.constants.reals(tensor_wrapper.tensor_idx)

    def _same(self, op: Any) -> Any:
        """QUANTIZE and DEQUANTIZE: the numbers stay what they are."""
        return self.get_tensor_expr(self.get_input_tensors(op)[0])

    def _expand_dims(self, op: Any) -> Any:
        data, axis = self.get_input_tensors(op)
        return relax.op.expand_dims(self.get_tensor_expr(data), int(np.ravel(self.get_tensor_value(axis))[0]))

    def _note(self, variable: str, index: int) -> None:
        """How the file rounds what the variable holds; nothing where it does so in two ways."""
        affine = affine_of(self.subgraph.Tensors(index))
        quant = affine.tensor_quant if affine is not None else None
        if quant is None or variable in self._differ:
            return
        if self.stored.tensors.setdefault(variable, quant) != quant:
            self._differ.add(variable)
            del self.stored.tensors[variable]

    def _note_weight(self, variable: str, kind: str, op: Any) -> None:
        place = WEIGHT_INPUT.get(kind)
        if place is not None and op.InputsLength() > place and self.constants.has(op.Inputs(place)):
            affine = affine_of(self.constants.source(op.Inputs(place)))
            if affine is not None and affine.symmetric:
                self.stored.weights[variable] = tuple(map(float, affine.scale.reshape(-1)))

    def convert_fused_activation_function(self, in_expr: Any, fused_activation_fn: int) -> Any:
        if fused_activation_fn == tflite.ActivationFunctionType.TANH and "SEQUENCE" not in self._kind:
            raise UnsupportedModelError("LiteRT leaves its fused activation TANH out; write an operator TANH behind it")
        return super().convert_fused_activation_function(in_expr, fused_activation_fn)

    def convert_transpose_conv(self, op: Any) -> Any:
        """TVM's result in NCHW, which it can compile, with the size and the activation that it leaves out."""
        result = super().convert_transpose_conv(op)
        options = tflite.TransposeConvOptions()
        options.Init(op.BuiltinOptions().Bytes, op.BuiltinOptions().Pos)
        size = [int(n) for n in self.get_output_tensors(op)[0].tensor.ShapeAsNumpy()[1:3]]
        return self.convert_fused_activation_function(_sized(result, size), options.FusedActivationFunction())

    def convert_op_to_relax(self) -> None:
        every = [self.subgraph.Operators(i) for i in range(self.subgraph.OperatorsLength())]
        operators = [op for i, op in enumerate(every) if i not in self.constants.unpacking]
        for index in map(int, self.subgraph.InputsAsNumpy()):
            self._note(str(self.get_expr(index).name), index)
        names = operator_names([self._tensors_of(op) for op in operators])
        for op, name in zip(operators, names, strict=True):
            self._kind = kind = self.get_op_code_str(op)
            self.recurrent |= "DIRECTIONAL_SEQUENCE" in kind
            try:
                result = self.convert_map[kind](op=op)
                result = result if result is None else self._as_stored(self.bb.normalize(result), op)
            except Exception as e:
                raise UnsupportedModelError(f"operator {kind} ({name!r}) cannot be imported: {one_line(e)}") from e
            if result is None:  # its constant output is handed on another way
                continue
            result = self._ends_at_zero(result, kind, op)
            if isinstance(result, relax.Call):
                result = self.bb.emit(result)
            if isinstance(result, relax.Var):
                self.owners.setdefault(str(result.name), name)
                if op.OutputsLength() == 1:
                    self.sources.setdefault(str(result.name), self.subgraph.Tensors(op.Outputs(0)).Name().decode())
                self._note(str(result.name), op.Outputs(0))
                self._note_weight(str(result.name), kind, op)
            outputs = self.get_output_tensors(op)
            for i, output in enumerate(outputs):
                self.exp_tab.set_expr(output.tensor.Name().decode(), result if len(outputs) == 1 else result[i])

    def _as_stored(self, result: Any, op: Any) -> Any:
        """The result, integers in the file's width. What has another shape or kind than in the file was misread."""
        if isinstance(result, relax.Call) and str(result.op.name) == "relax.call_dps_packed":
            raise UnsupportedModelError(f"TVM cannot compile it ({result.args[0].global_symbol})")
        outputs = self.get_output_tensors(op)
        if len(outputs) != 1 or not isinstance(result.ty, relax.TensorType) or self.resized:
            return result
        stored, shape = outputs[0].tensor, [int(n) for n in result.ty.shape.values]
        wanted = _shape(stored)  # empty also where the file does not know it
        if wanted and [n if w is not None else w for n, w in zip(shape, wanted, strict=False)] != wanted:
            raise UnsupportedModelError(f"its result has shape {wanted} in the file, and {shape} as imported")
        dtype, stored_dtype = str(result.ty.dtype), self.get_tensor_type_str(stored.Type())
        if dtype == stored_dtype:
            return result
        if "int" in dtype and "int" in stored_dtype:
            return self.bb.normalize(relax.op.astype(self.bb.emit(result), stored_dtype))
        raise UnsupportedModelError(f"its result has type {stored_dtype} in the file, and {dtype} as imported")

    def _ends_at_zero(self, result: Any, kind: str, op: Any) -> Any:
        """Quantizers leave a relu (or a clip at 6) out where integers end at zero anyway; it is put back as a clip."""
        affine = affine_of(self.subgraph.Tensors(op.Outputs(0)))
        if affine is None or affine.scale.size != 1 or kind not in _OF_BOTH_SIGNS or not isinstance(result, relax.Expr):
            return result
        limits = np.iinfo(affine.dtype)
        activated = isinstance(result, relax.Call) and str(result.op.name) in ("relax.nn.relu", "relax.clip")
        if activated or affine.zero.item() != limits.min:
            return result
        high = float(affine.scale.item() * (limits.max - limits.min))
        return self.bb.normalize(relax.op.clip(self.bb.emit(result), 0, high))

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
