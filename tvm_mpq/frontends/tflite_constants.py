"""Constants of TFLite files as the numbers they stand for, and tensors of integers seen as those of real numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tflite
from tvm.relax.frontend.tflite.tflite_frontend import prepare_dense_matrix_from_sparse

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends.onnx_affine import Affine

_TYPES = {
    tflite.TensorType.INT8: "int8",
    tflite.TensorType.UINT8: "uint8",
    tflite.TensorType.INT16: "int16",
    tflite.TensorType.INT32: "int32",
    tflite.TensorType.INT64: "int64",
    tflite.TensorType.FLOAT16: "float16",
    tflite.TensorType.FLOAT32: "float32",
}
_BIAS_INPUT = {
    tflite.BuiltinOperator.CONV_2D: 2,
    tflite.BuiltinOperator.DEPTHWISE_CONV_2D: 2,
    tflite.BuiltinOperator.FULLY_CONNECTED: 2,
    tflite.BuiltinOperator.TRANSPOSE_CONV: 3,
    tflite.BuiltinOperator.CONV_3D: 2,
}
_UNPACKING = (tflite.BuiltinOperator.DEQUANTIZE, tflite.BuiltinOperator.DENSIFY)


class SeenTensor:
    """A tensor of the file that says other things of itself. shape: None = as the file has it."""

    def __init__(self, tensor: Any, shape: Sequence[int] | None = None, *, real: bool = False) -> None:
        self.tensor, self._shape, self.real = tensor, shape, real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tensor, name)

    def Type(self) -> int:
        return int(tflite.TensorType.FLOAT32 if self.real else self.tensor.Type())

    def Quantization(self) -> Any:
        return None if self.real else self.tensor.Quantization()

    def ShapeAsNumpy(self) -> npt.NDArray[np.int32]:
        return np.array(self.tensor.ShapeAsNumpy() if self._shape is None else self._shape, np.int32)

    def Shape(self, axis: int) -> int:
        return int(self.ShapeAsNumpy()[axis])


class UnsizedTensor(SeenTensor):
    """A result of a network whose inputs have other sizes than the file's, before it is known."""

    def ShapeAsNumpy(self) -> npt.NDArray[np.int32]:
        raise UnsupportedModelError("its result's size stands in the file; convert the model with the sizes wanted")


def affine_of(tensor: Any) -> Affine | None:
    """What the integers of a tensor mean; None for one of plain numbers, or without scales."""
    quantization, dtype = tensor.Quantization(), _TYPES.get(tensor.Type(), "")
    if quantization is None or not quantization.ScaleLength() or "int" not in dtype:
        return None
    scale = np.atleast_1d(quantization.ScaleAsNumpy()).astype(np.float32)
    if not scale.all():
        return None  # shapes and indices, of which some converters write a scale of 0
    zero = np.atleast_1d(quantization.ZeroPointAsNumpy()).astype(np.int32) if quantization.ZeroPointLength() else 0
    return Affine(scale, np.array(np.broadcast_to(zero, scale.shape)), dtype, int(quantization.QuantizedDimension()))


class Constants:
    """Of one graph. Results of DEQUANTIZE and DENSIFY on constants are constants, and their operators go.

    rounded: names of those that were integers.
    """

    def __init__(self, model: Any, graph: Any) -> None:
        self._model, self._graph = model, graph
        self._unpacked: dict[int, int] = {}
        self._biases: dict[int, Any] = {}  # tensor -> the operator that adds it
        self.rounded: set[str] = set()
        self.unpacking: set[int] = set()
        for i in range(graph.OperatorsLength()):
            operator = graph.Operators(i)
            code = model.OperatorCodes(operator.OpcodeIndex())
            kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            place = _BIAS_INPUT.get(kind)
            if place is not None and operator.InputsLength() > place and operator.Inputs(place) >= 0:
                self._biases[operator.Inputs(place)] = operator
            if kind in _UNPACKING and self.has(operator.Inputs(0)):
                self._unpacked[operator.Outputs(0)] = operator.Inputs(0)
                self.unpacking.add(i)

    def is_real(self, index: int) -> bool:
        """Whether the tensor's integers stand for real numbers, or its numbers are float16 constants."""
        dtype = _TYPES.get(self._graph.Tensors(index).Type(), "")
        if index in self._unpacked or (dtype == "float16" and self.has(index)):
            return True
        if dtype in ("int32", "int64"):
            return index in self._biases
        return self._affine(index) is not None

    def _affine(self, index: int) -> Affine | None:
        """Of biases without scales: the input's times the weight's."""
        tensor = self._graph.Tensors(index)
        found = affine_of(tensor)
        dtype = _TYPES.get(tensor.Type(), "")
        if found is None and index in self._biases and "int" in dtype:
            x, w = (affine_of(self._graph.Tensors(self._biases[index].Inputs(i))) for i in (0, 1))
            if x is not None and w is not None:
                scale = (x.scale * w.scale).astype(np.float32)
                return Affine(scale, np.zeros(scale.shape, np.int32), dtype, 0)
        return found

    def has(self, index: int) -> bool:
        if index < 0:
            return False
        return index in self._unpacked or bool(self._model.Buffers(self._graph.Tensors(index).Buffer()).DataLength())

    def source(self, index: int) -> Any:
        """The tensor that holds the numbers."""
        while index in self._unpacked:
            index = self._unpacked[index]
        return self._graph.Tensors(index)

    def reals(self, index: int) -> npt.NDArray[np.float32]:
        """float32 of the tensor's shape."""
        if index in self._unpacked:
            index = self._unpacked[index]
            if index in self._unpacked:
                return self.reals(index)
        tensor = self._graph.Tensors(index)
        dtype = _TYPES[tensor.Type()]
        raw = np.frombuffer(self._model.Buffers(tensor.Buffer()).DataAsNumpy(), dtype)
        if tensor.Sparsity() is not None:
            raw = np.asarray(prepare_dense_matrix_from_sparse(tensor, raw, dtype)[1])
        values = raw.reshape(tuple(int(n) for n in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ())
        affine = self._affine(index)
        if affine is None:
            return values.astype(np.float32)
        self.rounded.add(tensor.Name().decode())
        return affine.reals(values)
