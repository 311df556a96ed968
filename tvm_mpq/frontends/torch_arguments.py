"""Arguments that TVM's torch frontend does not read: written out as operators where that is the same, else refused."""

from __future__ import annotations

import math
from typing import Any

from tvm_mpq.errors import UnsupportedModelError


def honour_arguments(program: Any, what: str) -> None:
    """Rewrite a decomposed program in place: factors of sums, divisors of averages, elements counted from the end.

    Raises
    ------
    UnsupportedModelError
        For a divisor with ceil_mode.
    """
    import torch

    multiply = torch.ops.aten.mul.Tensor
    for node in [n for n in program.graph.nodes if n.op == "call_function"]:
        name = str(node.target.__name__).split(".")[0]
        if name == "select":
            _count_from_the_start(node)
        elif name in ("add", "sub"):
            _write_alpha(program.graph, node, multiply)
        elif name in ("avg_pool1d", "avg_pool2d", "avg_pool3d"):
            _write_divisor(program.graph, node, multiply, what)


def _count_from_the_start(node: Any) -> None:
    """`x[:, -1]` names its element from the end; TVM would read what lies before the tensor."""
    x, axis, index = node.args
    size = x.meta["val"].shape[axis]
    if isinstance(index, int) and index < 0 and isinstance(size, int):
        node.args = (x, axis, index + size)


def _write_alpha(graph: Any, node: Any, multiply: Any) -> None:
    """x + alpha * y."""
    alpha = node.kwargs.get("alpha", 1)
    if alpha == 1:
        return
    x, y = node.args[:2]
    if isinstance(y, (int, float)):
        scaled: Any = y * alpha
    else:
        with graph.inserting_before(node):
            scaled = graph.call_function(multiply, (y, alpha))
        scaled.meta = dict(y.meta)
    node.args = (x, scaled)
    node.kwargs = {k: v for k, v in node.kwargs.items() if k != "alpha"}


def _write_divisor(graph: Any, node: Any, multiply: Any, what: str) -> None:
    """The mean of all cells of the window, padding among them, times their number by the divisor."""
    given = dict(
        zip(("x", "kernel", "stride", "padding", "ceil", "padded", "divisor_override"), node.args, strict=False)
    )
    divisor = (given | node.kwargs).get("divisor_override")
    if divisor is None:
        return
    if given.get("ceil") or node.kwargs.get("ceil_mode"):
        raise UnsupportedModelError(f"{what}: divisor_override of an average pooling with ceil_mode is not supported")
    axes = len(node.meta["val"].shape) - 2
    kernel = list(given["kernel"]) * (axes if len(given["kernel"]) == 1 else 1)
    node.args = (
        *(given.get(n) for n in ("x", "kernel")),
        given.get("stride") or kernel,
        given.get("padding") or [0] * axes,
    )
    node.args = (*node.args, False, True)
    node.kwargs = {}
    with graph.inserting_after(node):
        scaled = graph.call_function(multiply, (node, math.prod(kernel) / divisor))
    scaled.meta = dict(node.meta)
    node.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)
