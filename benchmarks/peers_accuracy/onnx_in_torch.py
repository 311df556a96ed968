"""The network as a torch module, for peers that read nothing else: converted by onnx2torch.

These peers trace what they are given once more, and stop at modules of onnx2torch that look into tensors for the sizes
of slices and pads. Here such modules become functions of torch with numbers in their place.
"""

from __future__ import annotations

import usable_torchvision  # noqa: F401

# isort: split
import operator
from collections.abc import Callable
from typing import Any

import onnx2torch
import torch
from onnx2torch.node_converters.binary_math_operations import OnnxBinaryMathOperation
from onnx2torch.node_converters.pad import OnnxPadDynamic
from onnx2torch.node_converters.slice import OnnxSlice
from worker import Task

Call = tuple[Callable[..., torch.Tensor], tuple[Any, ...]]


def converted(task: Task) -> torch.fx.GraphModule:
    """The network from images float32[N, C, H, W] to logits float32[N, classes]."""
    model = onnx2torch.convert(str(task.model)).eval()
    modules = dict(model.named_modules())
    for node in list(model.graph.nodes):
        call = _call(modules[node.target], node, model) if node.op == "call_module" else None
        if call is not None:
            with model.graph.inserting_before(node):
                node.replace_all_uses_with(model.graph.call_function(*call))
            model.graph.erase_node(node)
    model.graph.eliminate_dead_code()
    model.recompile()
    return model


def _call(module: torch.nn.Module, node: torch.fx.Node, model: torch.fx.GraphModule) -> Call | None:
    """The function that does what the module does, and its arguments; None = the module stays."""
    if isinstance(module, OnnxBinaryMathOperation):
        return module.math_op_function, node.args
    if isinstance(module, OnnxPadDynamic):
        (pads,) = _numbers(node, model)
        half = len(pads) // 2  # ONNX: begins of all axes, then ends; torch: begin and end of the last axis first
        return torch.nn.functional.pad, (
            node.args[0],
            [pads[i + at] for i in reversed(range(half)) for at in (0, half)],
            module.mode,
        )
    if isinstance(module, OnnxSlice):
        starts, ends, axes, steps = _numbers(node, model)
        slices = [slice(None)] * (max(axes) + 1)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            slices[axis] = slice(start, end, step)
        return operator.getitem, (node.args[0], tuple(slices))
    return None


def _numbers(node: torch.fx.Node, model: torch.fx.GraphModule) -> list[list[int]]:
    """The arguments behind the first, which are constants of the network."""
    return [model.get_buffer(str(argument.target)).tolist() for argument in node.args[1:]]  # type: ignore[union-attr]
