"""Small integer arithmetic on constants in ONNX graphs, computed before the import.

Exporters write paddings, shapes and axes as little graphs (torch's `pad` is nine operators), whose results TVM's
importer wants as constants.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

_LARGEST = 256  # elements; paddings and shapes have a few, weights have more
_REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
_DOMAINS = ("", "ai.onnx")


def fold_integers(graph: onnx.GraphProto, opset: int) -> None:
    """Replace, in place, operators on constants by initializers where all they take and give is small and integer."""
    known = {t.name: t for t in graph.initializer}
    values: dict[str, Any] = {n: numpy_helper.to_array(t) for n, t in known.items() if _is_small(t.dims, t.data_type)}
    outputs = {o.name for o in graph.output}
    kept = []
    for node in graph.node:
        results = _constant(node) if node.op_type == "Constant" else _evaluated(node, values, opset)
        if results is not None:
            values.update(results)
        if results is None or node.op_type == "Constant" or outputs & set(node.output):
            kept.append(node)
            continue
        graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in results.items())
    del graph.node[:]
    graph.node.extend(kept)


def _is_small(dims: Any, data_type: int) -> bool:
    integer = data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return integer and int(np.prod(list(dims), dtype=np.int64)) <= _LARGEST


def _constant(node: onnx.NodeProto) -> dict[str, Any] | None:
    for attribute in node.attribute:
        if attribute.name == "value" and _is_small(attribute.t.dims, attribute.t.data_type):
            return {node.output[0]: numpy_helper.to_array(attribute.t)}
    return None


def _evaluated(node: onnx.NodeProto, values: dict[str, Any], opset: int) -> dict[str, Any] | None:
    """The node's results; None when an operand is no small integer constant, or a result is none."""
    operands = [name for name in node.input if name]
    if not operands or node.domain not in _DOMAINS or not all(name in values for name in operands):
        return None
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(values[n].dtype), values[n].shape)
        for n in dict.fromkeys(operands)
    ]
    names = [name for name in node.output if name]
    graph = helper.make_graph([node], "constant", inputs, [onnx.ValueInfoProto(name=name) for name in names])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        results = ReferenceEvaluator(model).run(names, {n: values[n] for n in operands})
    except _REFUSALS:  # what the evaluator cannot do stays in the graph, and the importer speaks about it
        return None
    arrays = dict(zip(names, map(np.asarray, results), strict=True))
    small = all(a.dtype.kind == "i" and a.size <= _LARGEST for a in arrays.values())
    return arrays if small else None
