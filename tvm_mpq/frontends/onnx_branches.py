"""An If of ONNX: the branch that a constant condition takes, else both, and a choice among their results.

A branch has no effect but its results, so computing the other one too changes nothing but time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
from onnx import helper, numpy_helper

from tvm_mpq.frontends.onnx_nodes import (
    STANDARD,
    ConstantTensors,
    TensorTypes,
    VersionedNode,
    attribute,
    renamed,
    static_dims,
)
from tvm_mpq.frontends.onnx_write import OPSET, Rewriting, unsupported

_CHOICE = "org.tvm_mpq.choice"
"""Domain of the node behind both branches, which becomes a Where once it is known that their results are alike."""

_BRANCHES = ("then_branch", "else_branch")


def is_if(item: VersionedNode) -> bool:
    """Whether it is an If, or the choice behind the branches of one."""
    if item.node.domain == _CHOICE:
        return True
    whole = all(isinstance(attribute(item.node, which), onnx.GraphProto) for which in _BRANCHES)
    return item.node.op_type == "If" and item.node.domain in STANDARD and whole


def branches(
    item: VersionedNode,
    types: TensorTypes,
    constants: ConstantTensors,
    versions: Mapping[str, int],
    fits: Callable[[list[VersionedNode]], bool],
    note: Callable[[str], None],
) -> list[VersionedNode]:
    """What takes the place of an If, or of the choice behind its branches.

    A branch that cannot run at these sizes is none that the network takes: where that is one of two, the other is what
    stays, and a note says so.

    versions: of the domains that the branches' nodes are written in. fits: whether nodes can run where the If stands.

    Raises
    ------
    UnsupportedModelError
        If the condition is computed and the branches give tensors of different types.
    """
    node = item.node
    if node.domain == _CHOICE:
        return [VersionedNode(n, OPSET, item.source) for n in _choice(node, types)]
    known = constants.get(node.input[0])
    if known is not None:
        truth = bool(numpy_helper.to_array(known).reshape(-1)[0])
        return _inlined(item, _BRANCHES[0 if truth else 1], node.output[0], lambda name: name, versions)
    both = []
    for which in _BRANCHES:
        both.append(
            _inlined(item, which, f"{node.output[0]}/{which}", lambda name, w=which: f"{name}/{w}", versions)  # type: ignore[misc]
        )
    can_run = [fits(nodes) for nodes in both]
    if can_run[0] != can_run[1]:
        which = _BRANCHES[can_run.index(True)]
        note(f"If (node {item.source!r}) takes its {which}: the other one does not fit these sizes")
        return _inlined(item, which, node.output[0], lambda name: name, versions)
    found = [*both[0], *both[1]]
    for name in filter(None, node.output):
        choice = helper.make_node("If", [node.input[0], *(f"{name}/{w}" for w in _BRANCHES)], [name], domain=_CHOICE)
        found.append(VersionedNode(choice, 1, item.source))
    return found


def _inlined(
    item: VersionedNode, which: str, prefix: str, ends: Callable[[str], str], versions: Mapping[str, int]
) -> list[VersionedNode]:
    """The branch's nodes, its own tensors called after `prefix`; the If's output x is made as `ends(x)`."""
    branch = attribute(item.node, which)
    assert isinstance(branch, onnx.GraphProto)
    own = {n for inner in branch.node for n in inner.output} | {t.name for t in branch.initializer}
    held = [helper.make_node("Constant", [], [t.name], value=t) for t in branch.initializer]
    passed = [
        helper.make_node("Identity", [o.name], [f"{o.name}/out{i}"]) for i, o in enumerate(branch.output)
    ]  # an output of the branch may be a tensor from outside, or twice the same
    results = {
        f"{o.name}/out{i}": ends(name)
        for i, (o, name) in enumerate(zip(branch.output, item.node.output, strict=False))
        if name
    }
    nodes = renamed(
        [*held, *branch.node, *(p for p in passed if p.output[0] in results)],
        lambda name: results.get(name) or (f"{prefix}/{name}" if name in own else name),
    )
    found = [versions.get("" if n.domain in STANDARD else n.domain, item.opset) for n in nodes]
    return [VersionedNode(n, v, n.name or item.source) for n, v in zip(nodes, found, strict=True)]


def _choice(node: onnx.NodeProto, types: TensorTypes) -> list[onnx.NodeProto]:
    condition, then, other = node.input
    kinds = [(static_dims(types.get(n)), types[n].tensor_type.elem_type if n in types else 0) for n in (then, other)]
    if kinds[0][0] is None or kinds[0] != kinds[1]:
        shapes = " and ".join("unknown sizes" if k[0] is None else "x".join(map(str, k[0])) or "()" for k in kinds)
        raise unsupported(
            node,
            f"its branches give different tensors ({shapes}) and the network computes which is taken; make constant "
            "what that depends on, or export the model without branches",
        )
    write = Rewriting(node)
    one = write.op("Reshape", condition, write.hold([]))
    write.op("Where", one, then, other, output=node.output[0])
    return write.nodes
