"""Operators of torch that TVM's frontend misreads or does not know, read by ours in its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax

from tvm_mpq.frontends import torch_resize, torch_windows
from tvm_mpq.frontends.torch_rnn import CELLS

NodeReader = Callable[[Any, Any, Mapping[str, Any], str], Any]
"""(node, importer, its arguments by name with tensors as Relax has them, what the network is called) -> the result."""


def decompositions() -> dict[Any, Any]:
    """torch's own, but those that take apart what is read whole: steps of recurrent layers, resizes, windows."""
    import torch

    table: dict[Any, Any] = torch.export.default_decompositions()
    for operator in [op for op in table if getattr(op, "__name__", "") in CELLS or _short(op) in _WHOLE]:
        table.pop(operator)
    return table


def converters(importer: Any, what: str) -> dict[str, Callable[[Any], Any]]:
    """Operator's name -> what reads a node of it, as TVM's importer wants them."""
    tvms = dict(importer.convert_map)

    def converter(read: NodeReader, full: str) -> Callable[[Any], Any]:
        def convert(node: Any) -> Any:
            result = read(node, importer, _arguments(node, importer), what)
            if result is not None:
                return result
            return tvms[full](node)

        return convert

    names = [*_READ, *(f"{name}.{kind}" for name in _READ for kind in ("default", "vec"))]
    return {full: converter(_READ[full.split(".")[0]], full) for full in names}


def _arguments(node: Any, importer: Any) -> dict[str, Any]:
    """All arguments of the operator by name, absent ones as its schema says."""
    names = [a.name for a in node.target._schema.arguments]
    values = {a.name: a.default_value if a.has_default_value() else None for a in node.target._schema.arguments}
    values |= dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return {name: importer.env[v] if type(v).__name__ == "Node" else v for name, v in values.items()}


def _short(operator: Any) -> str:
    return str(getattr(operator, "__name__", "")).split(".")[0]


def _group_norm(node: Any, importer: Any, given: Mapping[str, Any], what: str) -> Any:
    """TVM's operator wants a scale and a shift; without them they are ones and zeros."""
    x = given["input"]
    channels, rank = int(x.ty.shape[1]), x.ty.ndim
    scale, shift = (
        relax.const(np.full(channels, value, np.float32)) if given[name] is None else given[name]
        for name, value in (("weight", 1), ("bias", 0))
    )
    groups = given["group" if "group" in given else "num_groups"]
    axes = list(range(2, rank))
    return importer.block_builder.emit(
        relax.op.nn.group_norm(x, scale, shift, groups, channel_axis=1, axes=axes, epsilon=given["eps"])
    )


_RESIZES = tuple(
    f"{prefix}{mode}{suffix}"
    for prefix, modes, suffix in (
        ("upsample_", ("linear1d", "bilinear2d", "bicubic2d", "nearest1d", "nearest2d"), ""),
        ("_upsample_", ("nearest_exact1d", "nearest_exact2d"), ""),
        ("_upsample_", ("bilinear2d", "bicubic2d"), "_aa"),
    )
    for mode in modes
)

_READ: dict[str, NodeReader] = {
    **dict.fromkeys(_RESIZES, torch_resize.resize),
    "adaptive_max_pool2d": torch_windows.adaptive_max_pool,
    "col2im": torch_windows.fold,
    "group_norm": _group_norm,
    "im2col": torch_windows.unfold,
    "max_pool2d_with_indices": torch_windows.max_pool,
    "max_pool3d_with_indices": torch_windows.max_pool,
    "max_unpool2d": torch_windows.max_unpool,
    "native_group_norm": _group_norm,
}

_WHOLE = frozenset(name for name in _READ if not re.search("norm|with_indices", name))
