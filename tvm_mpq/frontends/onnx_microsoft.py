"""Operators of ONNX Runtime's own domain, com.microsoft, which its optimiser writes, in standard ones."""

from __future__ import annotations

import numpy as np
import onnx

from tvm_mpq.frontends.onnx_nodes import ConstantTensors, TensorTypes, VersionedNode, attribute
from tvm_mpq.frontends.onnx_write import Rewriting, unsupported

Nodes = list[onnx.NodeProto]

_OWN = ("activation", "activation_alpha", "activation_beta", "activation_gamma", "activation_params")
_PARAMETERS = {
    "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max"),
    "Relu": (), "Sigmoid": (), "Tanh": (),
}  # fmt: skip
"""Activations that a fused operator ends with, and the names of their parameters, in order."""


def fused(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> Nodes:
    """FusedConv, FusedGemm: the operator, a summand where there is one, and an activation."""
    node = item.node
    write = Rewriting(node)
    kind, places = ("Conv", 3) if node.op_type == "FusedConv" else ("Gemm", 3)
    plain = onnx.helper.make_node(kind, list(node.input[:places]), [f"{node.output[0]}/linear"])
    plain.attribute.extend(a for a in node.attribute if a.name not in _OWN)
    write.nodes.append(plain)
    value = plain.output[0]
    if len(node.input) > places and node.input[places]:
        value = write.op("Add", value, node.input[places])
    name = attribute(node, "activation", b"")
    activation = name.decode() if isinstance(name, bytes) else str(name)
    if not activation:
        write.op("Identity", value, output=node.output[0])
        return write.nodes
    if activation not in _PARAMETERS:
        raise unsupported(node, f"its activation must be among {', '.join(_PARAMETERS)} (got {activation})")
    listed = np.array(attribute(node, "activation_params", []), np.float32).reshape(-1)
    given = dict(zip(_PARAMETERS[activation], map(float, listed), strict=False))
    given |= {
        n.removeprefix("activation_"): float(str(attribute(node, n)))
        for n in ("activation_alpha", "activation_beta")
        if attribute(node, n) is not None and n.removeprefix("activation_") in _PARAMETERS[activation]
    }
    if activation == "Clip":
        bounds = [write.hold(given[n], np.float32) if n in given else "" for n in ("min", "max")]
        write.op("Clip", value, *bounds, output=node.output[0])
    else:
        write.op(activation, value, output=node.output[0], **given)
    return write.nodes


def fused_matmul(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> Nodes:
    """alpha * op(a) @ op(b), where op may exchange the last two axes."""
    node = item.node
    if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
        raise unsupported(node, "transposed batches are not supported; save the model without ONNX Runtime's optimiser")
    write = Rewriting(node)
    operands = []
    for name, flag in zip(node.input, ("transA", "transB"), strict=True):
        rank = len(types[name].tensor_type.shape.dim) if name in types else 0
        if attribute(node, flag, 0) and rank > 1:
            name = write.op("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2])
        elif attribute(node, flag, 0) and not rank:
            raise unsupported(node, f"the number of axes of {name!r} is not known; export the model with static shapes")
        operands.append(name)
    alpha = float(str(attribute(node, "alpha", 1.0)))
    if alpha == 1:
        write.op("MatMul", *operands, output=node.output[0])
    else:
        write.op("Mul", write.op("MatMul", *operands), write.hold(alpha, np.float32), output=node.output[0])
    return write.nodes


def quick_gelu(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> Nodes:
    """x * sigmoid(alpha x)."""
    node = item.node
    write = Rewriting(node)
    scaled = write.op("Mul", node.input[0], write.hold(float(str(attribute(node, "alpha", 1.702))), np.float32))
    write.op("Mul", node.input[0], write.op("Sigmoid", scaled), output=node.output[0])
    return write.nodes


def skip_layer_norm(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> Nodes:
    """A layer normalisation of a sum, which may be asked for too: (x, skip, scale, shift, bias)."""
    node = item.node
    operands = [*node.input, *[""] * (5 - len(node.input))]
    if any(node.output[1:3]):
        raise unsupported(node, "its mean and deviation are not supported; save the model without them")
    write = Rewriting(node)
    value = write.op("Add", operands[0], operands[1])
    if operands[4]:
        value = write.op("Add", value, operands[4])
    norm = [value, operands[2], *([operands[3]] if operands[3] else [])]
    epsilon = float(str(attribute(node, "epsilon", 1e-12)))
    write.op("LayerNormalization", *norm, output=node.output[0], axis=-1, epsilon=epsilon)
    if len(node.output) > 3 and node.output[3]:
        write.op("Identity", value, output=node.output[3])
    return write.nodes


REWRITES = {
    "FusedConv": fused,
    "FusedGemm": fused,
    "FusedMatMul": fused_matmul,
    "QuickGelu": quick_gelu,
    "SkipLayerNormalization": skip_layer_norm,
}
