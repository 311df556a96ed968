"""What an ONNX graph calls its operators. Works on the protobuf alone; TVM is not involved."""

from __future__ import annotations

import re

import onnx

from tvm_mpq.frontends.naming import is_anonymous, owner_of, path

_WEIGHT_INPUT = {
    "Conv": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "BatchNormalization": 1,
    "LayerNormalization": 1,
    "InstanceNormalization": 1,
    "GroupNormalization": 1,
    "PRelu": 1,
    "LSTM": 1,
    "GRU": 1,
    "RNN": 1,
    "Gather": 0,  # an embedding
}
_BIAS_INPUT = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "BatchNormalization": 2, "LayerNormalization": 2}


def operator_names(graph: onnx.GraphProto) -> list[str]:
    """A readable name for each node, not yet unique.

    From the weight's name without `.weight`; if an exporter made that up, from the bias's; else from the node's name,
    and from its output's if it has none.
    """
    parameters = _parameters(graph)
    added = _added_parameters(graph, parameters)
    return [_name(node, parameters, added) for node in graph.node]


def _parameters(graph: onnx.GraphProto) -> dict[str, str]:
    """Tensor name -> the parameter it holds, also behind Transpose, Identity and Cast."""
    found = {t.name: t.name for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = node.output[0]
        elif node.op_type in ("Transpose", "Identity", "Cast", "Reshape", "Unsqueeze") and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _added_parameters(graph: onnx.GraphProto, parameters: dict[str, str]) -> dict[str, str]:
    """Tensor name -> the parameter that an Add adds to it: a MatMul's bias."""
    added = {}
    for node in graph.node:
        if node.op_type == "Add" and len(node.input) == 2:
            for data, other in (node.input, node.input[::-1]):
                if other in parameters and data not in parameters:
                    added[data] = parameters[other]
    return added


def _name(node: onnx.NodeProto, parameters: dict[str, str], added: dict[str, str]) -> str:
    weighted = False
    candidates = []
    if node.op_type == "MatMul":
        candidates = [parameters.get(node.input[1]) or parameters.get(node.input[0]), added.get(node.output[0])]
        weighted = candidates[0] is not None
        if not weighted:
            candidates = []
    elif node.op_type in _WEIGHT_INPUT:
        places = [_WEIGHT_INPUT[node.op_type], _BIAS_INPUT.get(node.op_type, len(node.input))]
        candidates = [parameters.get(node.input[i]) for i in places if i < len(node.input)]
        weighted = bool(candidates) and candidates[0] is not None
        if node.op_type == "Gather" and not (candidates[0] or "").endswith("weight"):
            candidates = []
    for parameter in candidates:
        if parameter and not is_anonymous(parameter) and not is_anonymous(owner_of(parameter)):
            return owner_of(parameter)
    for text in (node.name, *node.output):
        if text:
            return _from_text(text, node.op_type, weighted)
    return node.op_type


def _from_text(text: str, op_type: str, weighted: bool) -> str:
    """`/layer1/layer1.0/conv1/Conv` -> layer1.0.conv1, `/layer1/layer1.0/Relu` -> layer1.0.Relu."""
    text = re.sub(r"_output_\d+$", "", text.removeprefix("node_"))
    segments = [s for s in text.split("/") if s]
    if weighted and len(segments) > 1 and re.fullmatch(rf"{re.escape(op_type)}(_\d+)?", segments[-1]):
        segments.pop()
    return path("/".join(segments))
