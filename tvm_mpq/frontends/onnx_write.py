"""Writing the nodes that take a node's place."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tvm_mpq.errors import UnsupportedModelError

OPSET = 18
"""The version in which rewritings are written."""


class Rewriting:
    """Collects nodes; tensors between them are called after the first output of the node they replace."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._prefix = next(name for name in node.output if name)

    def _fresh(self, what: str) -> str:
        return f"{self._prefix}/{what}{len(self.nodes)}"

    def hold(self, value: npt.ArrayLike, dtype: Any = np.int64) -> str:
        """A Constant; returns its name."""
        tensor = numpy_helper.from_array(np.array(value, dtype, order="C"))
        name = self._fresh("constant")
        self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def op(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """An operator of one result, called `output` where that is given; returns its name."""
        name = output or self._fresh(op_type.lower())
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name

    def cast(self, name: str, element_type: int, output: str = "") -> str:
        """`name` as numbers of an ONNX element type."""
        return self.op("Cast", name, output=output, to=element_type)


def unsupported(node: onnx.NodeProto, why: str) -> UnsupportedModelError:
    """The refusal of a node, in one line."""
    name = node.name or next((o for o in node.output if o), "")
    return UnsupportedModelError(f"operator {node.op_type} (node {name!r}): {why}")
