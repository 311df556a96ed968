"""A Scan over an axis of known length is its body, once for each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvm_mpq.frontends.onnx_nodes import STANDARD, VersionedNode, attribute, renamed

MOST_NODES = 4096
"""A longer program is refused as a loop: it would take minutes to compile."""

_OPSET = 18  # in which the nodes around the steps are written


def unrolled(
    item: VersionedNode, dims: Mapping[str, tuple[int, ...] | None], versions: Mapping[str, int]
) -> list[VersionedNode] | None:
    """The steps of a Scan one after another; None for another operator, an unknown length, or a long one.

    dims: sizes of the tensors it reads; versions: of the domains that its body's nodes are written in.
    """
    node = item.node
    body = attribute(node, "body")
    if node.op_type != "Scan" or node.domain not in STANDARD or item.opset < 9 or not isinstance(body, onnx.GraphProto):
        return None
    count = int(str(attribute(node, "num_scan_inputs")))
    states, scanned = list(node.input[: len(node.input) - count]), list(node.input[len(node.input) - count :])
    axes = _list(node, "scan_input_axes", count)
    backward = _list(node, "scan_input_directions", count)
    shapes = [dims.get(name) for name in scanned]
    if not scanned or any(s is None for s in shapes):
        return None
    length = next(s[a] for s, a in zip(shapes, axes, strict=True) if s is not None)
    if length * len(body.node) > MOST_NODES or length == 0:
        return None
    prefix = next(name for name in node.output if name)
    own = {n for inner in body.node for n in inner.output}
    held = {t.name: f"{prefix}/{t.name}" for t in body.initializer}
    around = [helper.make_node("Constant", [], [held[t.name]], value=t) for t in body.initializer]
    steps: list[VersionedNode] = []
    pieces: list[list[str]] = [[] for _ in body.output[len(states) :]]
    for step in range(length):
        reads = []
        for name, axis, turned in zip(scanned, axes, backward, strict=True):
            place = length - 1 - step if turned else step
            at, piece = f"{prefix}/{step}/{name}/at", f"{prefix}/{step}/{name}"
            value = numpy_helper.from_array(np.array(place, np.int64))
            steps.append(VersionedNode(helper.make_node("Constant", [], [at], value=value), _OPSET, item.source))
            steps.append(VersionedNode(helper.make_node("Gather", [name, at], [piece], axis=axis), _OPSET, item.source))
            reads.append(piece)
        names = dict(zip([i.name for i in body.input], [*states, *reads], strict=True)) | held
        names |= {name: f"{prefix}/{step}/{name}" for name in own}
        for inner in renamed(body.node, lambda name, names=names: names.get(name, name)):  # type: ignore[misc]
            version = versions.get("" if inner.domain in STANDARD else inner.domain, item.opset)
            steps.append(VersionedNode(inner, version, inner.name or item.source))
        results = [names.get(o.name, o.name) for o in body.output]
        states = results[: len(states)]
        for made, result in zip(pieces, results[len(states) :], strict=True):
            made.append(result)
    ends = [helper.make_node("Identity", [s], [o]) for s, o in zip(states, node.output, strict=False) if o]
    outputs = node.output[len(states) :]
    for made, output, axis, turned in zip(
        pieces,
        outputs,
        _list(node, "scan_output_axes", len(pieces)),
        _list(node, "scan_output_directions", len(pieces)),
        strict=False,
    ):
        if output:
            ends.extend(stacked(made[::-1] if turned else made, output, axis))
    wrapped = [VersionedNode(n, _OPSET, item.source) for n in around]
    return [*wrapped, *steps, *(VersionedNode(n, _OPSET, item.source) for n in ends)]


def _list(node: onnx.NodeProto, name: str, count: int) -> list[int]:
    found = attribute(node, name)
    return [int(v) for v in found] if isinstance(found, Sequence) and len(found) else [0] * count


def stacked(pieces: list[str], output: str, axis: int) -> list[onnx.NodeProto]:
    """The pieces along a new axis."""
    at = f"{output}/axis"
    nodes = [helper.make_node("Constant", [], [at], value=numpy_helper.from_array(np.array([axis], np.int64)))]
    wide = [f"{output}/{i}" for i in range(len(pieces))]
    nodes += [helper.make_node("Unsqueeze", [p, at], [w]) for p, w in zip(pieces, wide, strict=True)]
    return [*nodes, helper.make_node("Concat", wide, [output], axis=axis)]
