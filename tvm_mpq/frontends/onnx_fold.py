"""What an ONNX node gives when all it reads is constant, computed by the ONNX package's own evaluator.

Exporters write paddings, shapes, axes, masks and grids as little graphs, and keep weights behind Cast, Transpose,
Mul or DequantizeLinear; TVM's importer wants their results as constants.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tvm_mpq.frontends.onnx_nodes import STANDARD, subgraphs

_REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, NotImplementedError)
RANDOM = frozenset(
    ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)

_AS_OF = {"DequantizeLinear": 19, "QuantizeLinear": 19}
"""Operators of which the evaluator lacks versions that mean the same; it takes this one for them."""


def evaluated(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], opset: int
) -> dict[str, npt.NDArray[Any]] | None:
    """The node's results by name; None when it reads what is not constant, or cannot be computed here."""
    operands = list(dict.fromkeys(filter(None, node.input)))
    if node.domain not in STANDARD or node.op_type in RANDOM or any(n not in constants for n in operands):
        return None
    if node.op_type != "Constant" and (not operands or any(True for _ in subgraphs(node))):
        return None
    names = [name for name in node.output if name]
    inputs = [helper.make_tensor_value_info(n, constants[n].data_type, constants[n].dims) for n in operands]
    graph = helper.make_graph([node], "constant", inputs, [onnx.ValueInfoProto(name=name) for name in names])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", max(opset, _AS_OF.get(node.op_type, 1)))])
    try:
        values = {n: numpy_helper.to_array(constants[n]) for n in operands}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(model).run(names, values)
    except _REFUSALS:  # what the evaluator cannot do stays in the graph, and the importer speaks about it
        return None
    arrays = dict(zip(names, map(np.asarray, results), strict=True))
    return arrays if all(a.dtype.kind in "biuf" and a.dtype.isbuiltin for a in arrays.values()) else None
