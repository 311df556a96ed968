"""ONNX operators of which TVM reads some forms only, in nodes that it reads: places of a pool's maxima, even windows,
reductions of truths, of nothing, and what scales are broadcast to."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tvm_mpq.frontends import onnx_linear_maps as linear_maps
from tvm_mpq.frontends.onnx_microsoft import REWRITES as MICROSOFT
from tvm_mpq.frontends.onnx_nodes import (
    STANDARD,
    ConstantTensors,
    TensorTypes,
    VersionedNode,
    attribute,
    static_dims,
)
from tvm_mpq.frontends.onnx_write import OPSET, Rewriting, unsupported

_NOTHING_REDUCED = {
    "ReduceL1": "Abs", "ReduceL2": "Abs", "ReduceLogSum": "Log", "ReduceLogSumExp": "Identity", "ReduceMax": "Identity",
    "ReduceMean": "Identity", "ReduceMin": "Identity", "ReduceProd": "Identity", "ReduceSum": "Identity",
    "ReduceSumSquare": "Square",
}  # fmt: skip
"""What a reduction over no axis does to each element."""


def reduced(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> list[onnx.NodeProto] | None:
    """A reduction over no axes at all, or of truths; None for others."""
    node = item.node
    write = Rewriting(node)
    axes = constants.get(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    named = len(node.input) > 1 and node.input[1] and (axes is None or np.prod(axes.dims) > 0)
    if attribute(node, "noop_with_empty_axes", 0) and not named and attribute(node, "axes") is None:
        kind = _NOTHING_REDUCED[node.op_type]
        operands = [node.input[0]] * (2 if kind == "Square" else 1)
        write.op("Mul" if kind == "Square" else kind, *operands, output=node.output[0])
        return write.nodes
    if _element_type(node.input[0], types) != TensorProto.BOOL:
        return None
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    plain.input[0] = write.cast(node.input[0], TensorProto.INT32)
    plain.output[0] = f"{node.output[0]}/number"
    write.nodes.append(plain)
    write.cast(plain.output[0], TensorProto.BOOL, node.output[0])
    return write.nodes


def max_pool(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> list[onnx.NodeProto] | None:
    """The pool, and the place of each maximum: which of the window's elements it is, looked up in a table of places."""
    node = item.node
    if len(node.output) < 2 or not node.output[1]:
        return None
    shapes = static_dims(types.get(node.input[0])), static_dims(types.get(node.output[0]))
    if shapes[0] is None or shapes[1] is None:
        return None
    if _element_type(node.input[0], types) != TensorProto.FLOAT:
        raise unsupported(node, "places of maxima are found of float32 tensors only; cast its input to float32")
    (batch, channels, *sizes), counts = shapes[0], list(shapes[1][2:])
    kernel = _list(node, "kernel_shape", [])
    strides, dilations = (_list(node, name, [1] * len(sizes)) for name in ("strides", "dilations"))
    front = _front(node, sizes, counts, kernel, strides, dilations)
    write = Rewriting(node)
    pool = onnx.NodeProto()
    pool.CopyFrom(node)
    del pool.output[1:]
    for a in [a for a in pool.attribute if a.name == "storage_order"]:
        pool.attribute.remove(a)
    write.nodes.append(pool)
    behind = [
        max((n - 1) * s + (k - 1) * d + 1 - f - size, 0)
        for n, s, k, d, f, size in zip(counts, strides, kernel, dilations, front, sizes, strict=True)
    ]
    pads = write.hold([0, 0, *front, 0, 0, *behind])
    padded = write.op("Pad", node.input[0], pads, write.hold(-np.inf, np.float32))
    axes = write.hold(list(range(2, len(sizes) + 2)))
    offsets = [
        [i * d for i, d in zip(place, dilations, strict=True)] for place in itertools.product(*map(range, kernel))
    ]
    candidates = []
    for offset in offsets:
        ends = [o + (n - 1) * s + 1 for o, n, s in zip(offset, counts, strides, strict=True)]
        cut = write.op("Slice", padded, write.hold(offset), write.hold(ends), axes, write.hold(strides))
        candidates.append(write.op("Reshape", cut, write.hold([1, batch, channels, *counts])))
    which = write.op("ArgMax", write.op("Concat", *candidates, axis=0), axis=0, keepdims=0)
    steps = np.cumprod([1, *sizes[:0:-1]])[::-1]
    if attribute(node, "storage_order", 0):
        steps = np.cumprod([1, *sizes[:-1]])
    planes = np.arange(batch * channels).reshape(batch, channels, *[1] * len(sizes)) * int(np.prod(sizes))
    corners = [(np.arange(n) * s - f) * step for n, s, f, step in zip(counts, strides, front, steps, strict=True)]
    first = planes + sum(np.meshgrid(*corners, indexing="ij"), np.array(0))
    moved = write.op("Gather", write.hold(np.array(offsets) @ steps), which)
    write.op("Add", moved, write.hold(first), output=node.output[1])
    return write.nodes


def _front(
    node: onnx.NodeProto, sizes: list[int], counts: list[int], kernel: list[int], strides: list[int],
    dilations: list[int],
) -> list[int]:  # fmt: skip
    """Padding in front of each axis."""
    mode = attribute(node, "auto_pad", b"NOTSET")
    if mode in (b"NOTSET", b""):
        return _list(node, "pads", [0] * 2 * len(sizes))[: len(sizes)]
    if mode == b"VALID":
        return [0] * len(sizes)
    totals = [
        max((n - 1) * s + (k - 1) * d + 1 - size, 0)
        for n, s, k, d, size in zip(counts, strides, kernel, dilations, sizes, strict=True)
    ]
    return [t // 2 if mode == b"SAME_UPPER" else t - t // 2 for t in totals]


def max_unpool(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> list[onnx.NodeProto] | None:
    """Zeros of the pool's input, with the values at their places.

    Raises
    ------
    UnsupportedModelError
        For an output shape that the window does not give: ONNX and ONNX Runtime mean different things by it.
    """
    node = item.node
    sizes = static_dims(types.get(node.input[0]))
    if sizes is None:
        return None
    kernel = _list(node, "kernel_shape", [])
    strides, pads = _list(node, "strides", [1] * len(kernel)), _list(node, "pads", [0] * 2 * len(kernel))
    whole = [*sizes[:2]]
    for i, size in enumerate(sizes[2:]):
        whole.append((size - 1) * strides[i] + kernel[i] - pads[i] - pads[i + len(kernel)])
    if len(node.input) > 2 and node.input[2]:
        given = constants.get(node.input[2])
        wanted = None if given is None else [int(v) for v in numpy_helper.to_array(given).reshape(-1)]
        if wanted != whole:
            raise unsupported(node, f"output_shape must be what its window gives, {whole} (got {wanted})")
    write = Rewriting(node)
    flat = write.hold([-1])
    zeros = write.op("Expand", write.hold([0.0], np.float32), write.hold([int(np.prod(whole))]))
    values, places = (write.op("Reshape", name, flat) for name in node.input[:2])
    filled = write.op("ScatterElements", zeros, places, values, axis=0)
    write.op("Reshape", filled, write.hold(whole), output=node.output[0])
    return write.nodes


def local_response(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> list[onnx.NodeProto] | None:
    """x / (bias + alpha / size * sum of squares of the channels around) ** beta, where the window is even."""
    node = item.node
    size = int(str(attribute(node, "size")))
    sizes = static_dims(types.get(node.input[0]))
    if size % 2 or sizes is None:
        return None
    alpha, beta, bias = (float(str(attribute(node, n, d))) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    write = Rewriting(node)
    squares = write.op("Mul", node.input[0], node.input[0])
    front, behind = (size - 1) // 2, size // 2
    rest = [0] * (len(sizes) - 2)
    padded = write.op("Pad", squares, write.hold([0, front, *rest, 0, behind, *rest]))
    axis = write.hold([1])
    total = ""
    for i in range(size):
        part = write.op("Slice", padded, write.hold([i]), write.hold([i + sizes[1]]), axis)
        total = write.op("Add", total, part) if total else part
    scaled = write.op("Mul", total, write.hold(alpha / size, np.float32))
    moved = write.op("Add", scaled, write.hold(bias, np.float32))
    write.op("Div", node.input[0], write.op("Pow", moved, write.hold(beta, np.float32)), output=node.output[0])
    return write.nodes


def layer_norm(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> list[onnx.NodeProto] | None:
    """Scale and bias as large as the axes they belong to; ONNX broadcasts smaller ones."""
    node = item.node
    shapes = [static_dims(types.get(name)) if name else () for name in node.input]
    if any(s is None for s in shapes):
        return None
    sizes = shapes[0] or ()
    axis = int(str(attribute(node, "axis", -1))) % max(len(sizes), 1)
    wanted = sizes[axis:]
    small = [i for i in range(1, len(node.input)) if node.input[i] and shapes[i] != wanted]
    if not small:
        return None
    write = Rewriting(node)
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    for i in small:
        plain.input[i] = write.op("Expand", node.input[i], write.hold(list(wanted)))
    write.nodes.append(plain)
    return write.nodes


def one_hot(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> list[onnx.NodeProto] | None:
    """Indices compared with 0, 1, ..., those from the end counted from the front; others are nowhere."""
    node = item.node
    depth, indices, values = (constants.get(node.input[1]), *(types.get(node.input[i]) for i in (0, 2)))
    if depth is None or indices is None or values is None:
        return None
    count, rank = int(numpy_helper.to_array(depth).reshape(-1)[0]), len(indices.tensor_type.shape.dim)
    axis = int(str(attribute(node, "axis", -1))) % (rank + 1)
    write = Rewriting(node)
    whole = write.op("Unsqueeze", write.cast(node.input[0], TensorProto.INT64), write.hold([axis]))
    negative = write.op("Less", whole, write.hold(0))
    places = write.op("Where", negative, write.op("Add", whole, write.hold(count)), whole)
    steps = write.hold(np.arange(count).reshape([count if a == axis else 1 for a in range(rank + 1)]))
    off, on = (write.op("Gather", node.input[2], write.hold(i)) for i in (0, 1))
    write.op("Where", write.op("Equal", places, steps), on, off, output=node.output[0])
    return write.nodes


def _element_type(name: str, types: TensorTypes) -> int:
    return types[name].tensor_type.elem_type if name in types else TensorProto.UNDEFINED


def _list(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    return [int(v) for v in np.array(attribute(node, name, default)).reshape(-1)]


_Rewrite = Callable[[VersionedNode, TensorTypes, ConstantTensors], list[onnx.NodeProto] | None]

_REWRITES: dict[str, _Rewrite] = {
    **dict.fromkeys(_NOTHING_REDUCED, reduced),
    "Col2Im": linear_maps.col2im,
    "DFT": linear_maps.dft,
    "LRN": local_response,
    "LayerNormalization": layer_norm,
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
    "OneHot": one_hot,
    "STFT": linear_maps.stft,
}


def rewritten(item: VersionedNode, types: TensorTypes, constants: ConstantTensors) -> list[VersionedNode] | None:
    """The same in nodes that TVM reads; None for a node that may stay as it is."""
    rewrite = _REWRITES.get(item.node.op_type) if item.node.domain in STANDARD else None
    if item.node.domain == "com.microsoft":
        rewrite = MICROSOFT.get(item.node.op_type)
    nodes = rewrite(item, types, constants) if rewrite else None
    if nodes is None:
        return None
    # The operator itself, with other operands, keeps the version it was written in.
    versions = [item.opset if n.op_type == item.node.op_type else OPSET for n in nodes]
    return [VersionedNode(n, v, item.source) for n, v in zip(nodes, versions, strict=True)]
