"""ONNX files in float16, bfloat16 or float64 are read as float32, which kernels take and quantization starts from."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tvm_mpq.frontends.onnx_nodes import all_nodes, subgraphs, tensors_with_data

_NAMES: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "stash_type", "softmax_precision", "output_dtype"})


def read_as_float32(model: onnx.ModelProto) -> list[str]:
    """Change every other float type to float32, in place; one note for each that was found in tensors.

    Weights are widened exactly, except that float64 is rounded.
    """
    found: dict[str, None] = {}
    for tensor in tensors_with_data(model.graph):
        if tensor.data_type in _NAMES:
            found[_NAMES[tensor.data_type]] = None
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in all_nodes(model.graph):
        for a in node.attribute:
            if a.name in _TYPE_ATTRIBUTES and a.type == onnx.AttributeProto.INT and a.i in _NAMES:
                a.i = TensorProto.FLOAT
    _values_as_float32(model.graph, found)
    return [f"{name} tensors of the file are read as float32" for name in found]


def _values_as_float32(graph: onnx.GraphProto, found: dict[str, None]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        if tensor.elem_type in _NAMES:
            found[_NAMES[tensor.elem_type]] = None
            tensor.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for inner in subgraphs(node):
            _values_as_float32(inner, found)
