"""What a TFLite file calls its operators: read from tensor names, since its operators have none.

A converter that fuses layers joins their names with `;`, e.g.
`model/activation/Relu;model/batch_normalization/FusedBatchNormV3;model/conv2d/Conv2D`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_mpq.frontends.naming import is_anonymous, owner_of

WEIGHT_INPUT = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
    "CONV_3D": 1,
    "BATCH_MATMUL": 1,
}
_TAILS = {
    "CONV_2D": ("conv2d", "kernel", "conv"),
    "DEPTHWISE_CONV_2D": ("depthwise", "depthwiseconv2dnative", "depthwise_kernel"),
    "FULLY_CONNECTED": ("matmul", "kernel", "tensordot"),
    "TRANSPOSE_CONV": ("conv2d_transpose", "kernel"),
    "AVERAGE_POOL_2D": ("avgpool",),
}


@dataclass(frozen=True)
class OperatorTensors:
    """kind: the builtin operator's name; weight: its constant weight tensor's name, if it has one."""

    kind: str
    weight: str | None
    output: str


def operator_names(operators: Sequence[OperatorTensors]) -> list[str]:
    """A readable name for each operator, not yet unique; a first segment that all weighted ones share is left out."""
    names = [_name(op) for op in operators]
    roots = {n.split(".", 1)[0] for n, op in zip(names, operators, strict=True) if op.weight and "." in n}
    if len(roots) == 1 and all("." in n for n, op in zip(names, operators, strict=True) if op.weight):
        root = f"{roots.pop()}."
        names = [n.removeprefix(root) for n in names]
    return names


def _name(op: OperatorTensors) -> str:
    for text in filter(None, (op.weight, op.output)):
        piece = _piece(text, op.kind)
        if not is_anonymous(piece) and not is_anonymous(owner_of(piece)):
            if op.weight:
                return owner_of(piece)
            head, _, tail = piece.rpartition("/")
            return owner_of(head or tail)
    return op.kind.lower()


def _piece(text: str, kind: str) -> str:
    """The one of the joined names that speaks of this kind of operator, else the first."""
    pieces = text.split(";")
    tails = _TAILS.get(kind, (kind.replace("_", "").lower(),))
    for wanted in tails:
        for piece in pieces:
            # A converter that meets a name twice puts a digit behind it.
            if re.sub(r"_?\d$", "", piece.rsplit("/", 1)[-1].lower()) == wanted or piece.lower().endswith("/" + wanted):
                return re.sub(r"(?<=[A-Za-z])\d$", "", piece) if "/" in piece else piece
    return pieces[0]
