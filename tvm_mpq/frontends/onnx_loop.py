"""A Loop of ONNX whose length the graph itself tells is its body, once for each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvm_mpq.frontends.onnx_nodes import STANDARD, ConstantTensors, VersionedNode, attribute, renamed
from tvm_mpq.frontends.onnx_scan import MOST_NODES, stacked
from tvm_mpq.frontends.onnx_write import OPSET, Rewriting, unsupported

_REST = "org.tvm_mpq.loop"
"""Domain of the node that stands for the steps still to come: (limit, condition, states, results of steps so far)."""


def peeled(item: VersionedNode, constants: ConstantTensors, versions: Mapping[str, int]) -> list[VersionedNode] | None:
    """The next step of a Loop and what is left of it; None for another operator, or a limit that is computed.

    Each step's condition is looked at once it is computed, so that a loop that counts for itself ends by itself.

    Raises
    ------
    UnsupportedModelError
        If the condition depends on the data, or there are too many steps.
    """
    node = item.node
    body = attribute(node, "body")
    if node.op_type != "Loop" or node.domain not in (*STANDARD, _REST) or not isinstance(body, onnx.GraphProto):
        return None
    limit, condition = (constants.get(name) for name in node.input[:2])
    if node.input[0] and limit is None:
        return None
    step, states = int(str(attribute(node, "step", 0))), len(body.input) - 2
    if node.input[1] and condition is None:
        raise unsupported(node, "how many steps it makes depends on the data; export the model without loops")
    last = limit is not None and step >= _number(limit)
    if last or (condition is not None and not _number(condition)):
        return [VersionedNode(n, OPSET, item.source) for n in _ends(node, states)]
    if (step + 1) * max(len(body.node), 1) > MOST_NODES:
        raise unsupported(node, f"it has more than {MOST_NODES} operators in all its steps; export a shorter one")
    prefix = next(name for name in node.output if name)
    names = {n: f"{prefix}/{step}/{n}" for inner in body.node for n in inner.output}
    names |= {t.name: f"{prefix}/{step}/{t.name}" for t in body.initializer}
    held = [helper.make_node("Constant", [], [t.name], value=t) for t in body.initializer]
    now = helper.make_node(
        "Constant", [], [f"{prefix}/{step}/now"], value=numpy_helper.from_array(np.array(step, np.int64))
    )
    true = helper.make_node("Constant", [], [f"{prefix}/{step}/go"], value=numpy_helper.from_array(np.array(True)))
    reads = [now.output[0], node.input[1] or true.output[0], *node.input[2 : 2 + states]]
    names |= dict(zip([i.name for i in body.input], reads, strict=True))
    nodes = renamed([*held, *body.node], lambda name: names.get(name, name))
    results = [names.get(o.name, o.name) for o in body.output]
    rest = helper.make_node(
        "Loop", [node.input[0], *results[: 1 + states], *node.input[2 + states :], *results[1 + states :]],
        list(node.output), domain=_REST, body=body, step=step + 1, name=node.name,
    )  # fmt: skip
    found = [VersionedNode(n, OPSET, item.source) for n in (now, true)]
    for n in nodes:
        version = versions.get("" if n.domain in STANDARD else n.domain, item.opset)
        found.append(VersionedNode(n, version, n.name or item.source))
    return [*found, VersionedNode(rest, item.opset, item.source)]


def _number(tensor: onnx.TensorProto) -> int:
    return int(numpy_helper.to_array(tensor).reshape(-1)[0])


def _ends(node: onnx.NodeProto, states: int) -> Sequence[onnx.NodeProto]:
    """The states as they are, and the results of all steps on top of each other."""
    write = Rewriting(node)
    for name, output in zip(node.input[2 : 2 + states], node.output, strict=False):
        if output:
            write.op("Identity", name, output=output)
    outputs = node.output[states:]
    pieces = list(node.input[2 + states :])
    for i, output in enumerate(outputs):
        made = pieces[i :: max(len(outputs), 1)]
        if output and not made:
            raise unsupported(node, "it makes no step, and the sizes of its results are not known; leave it out")
        if output:
            write.nodes.extend(stacked(made, output, 0))
    return write.nodes
