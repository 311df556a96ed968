"""Chains of slices and zero pads become one slice and one pad; a zero pad before a convolution becomes its padding.

    strided_slice(strided_slice(x)), pad(strided_slice(x)), strided_slice(pad(x)), ...  ->  pad(strided_slice(x))
    conv2d(pad(x))                                                                      ->  conv2d(x, padding + pad)

Works on float32 maps of rank 4 (channels-last: stands after ChannelsLast). Leaves other padding modes, negative strides
and other ranks alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from tvm_mpq.passes.normalize.exprs import ints, is_float, op_name, shape_of, slice_of, zero_pad_of
from tvm_mpq.passes.normalize.rewrite import Rewriter


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.MergeCopy")
class MergeCopy:
    """Merge slices and zero pads with each other, and pads into convolutions."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return _Rewriter(mod).run()


@dataclass(frozen=True)
class AxisCopy:
    """Along one axis of `extent`: y[i] = x[begin + stride * (i - pad)] for i - pad in [0, count), else 0."""

    extent: int
    pad: int
    begin: int
    stride: int
    count: int

    def sliced(self, begin: int, stride: int, count: int) -> AxisCopy:
        """After y[begin :: stride][:count]."""
        first = max(0, -((begin - self.pad) // stride))  # the first new element that lies in x
        last = min(count - 1, (self.pad + self.count - 1 - begin) // stride)
        source = self.begin + self.stride * (begin - self.pad + stride * first)
        return AxisCopy(count, first, source, self.stride * stride, max(0, last - first + 1))

    def padded(self, before: int, after: int) -> AxisCopy:
        return AxisCopy(self.extent + before + after, self.pad + before, self.begin, self.stride, self.count)

    def simplified(self) -> AxisCopy:
        """Stride and begin have no meaning beyond what is taken."""
        return AxisCopy(self.extent, self.pad, self.begin, self.stride if self.count > 1 else 1, self.count)


def copy_step(value: relax.Expr | None, axes: Sequence[AxisCopy] | None = None) -> list[AxisCopy] | None:
    """The copy that a slice or zero pad makes, after `axes` where given; None for anything else.

    Only float32 maps of rank 4 whose result holds at least one source element.
    """
    if op_name(value) not in ("relax.strided_slice", "relax.nn.pad") or value is None:
        return None
    shape = shape_of(value.args[0])
    if shape is None or len(shape) != 4 or not is_float(value.args[0]):
        return None
    old = axes if axes is not None else [AxisCopy(d, 0, 0, 1, d) for d in shape]
    if op_name(value) == "relax.strided_slice":
        taken = slice_of(value)
        new = None if taken is None else [a.sliced(*t) for a, t in zip(old, taken, strict=True)]
    else:
        pads = zero_pad_of(value)
        new = None if pads is None else [a.padded(*p) for a, p in zip(old, pads, strict=True)]
    return None if new is None or any(a.count < 1 for a in new) else [a.simplified() for a in new]


class _Rewriter(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._copies: dict[relax.Expr, tuple[relax.Expr, list[AxisCopy]]] = {}

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        value = self.remap(value)
        source = value.args[0] if isinstance(value, relax.Call) and value.args else None
        root, axes = self._copies.get(source, (source, None)) if isinstance(source, relax.Var) else (source, None)
        merged = copy_step(value, axes)
        if merged is None:
            new = self.emit(_with_padding(value, self.definition(source)), var.name)
        else:
            new = self._emit_copy(root, merged, var.name)
            self._copies[new] = (root, merged)
        self.replace(var, new)

    def _emit_copy(self, x: relax.Expr, axes: list[AxisCopy], name: str) -> relax.Expr:
        shape = shape_of(x) or ()
        if any((a.begin, a.stride, a.count) != (0, 1, d) for a, d in zip(axes, shape, strict=True)):
            begin = [a.begin for a in axes]
            end = [a.begin + a.stride * (a.count - 1) + 1 for a in axes]
            taken = relax.op.strided_slice(x, list(range(len(shape))), begin, end, [a.stride for a in axes])
            x = self.emit(taken, name)
        width = [w for a in axes for w in (a.pad, a.extent - a.pad - a.count)]
        return self.emit(relax.op.nn.pad(x, width), name) if any(width) else x


def _with_padding(value: relax.Expr, producer: Any) -> relax.Expr:
    """A convolution that pads itself what was padded before it."""
    if op_name(value) != "relax.nn.conv2d" or op_name(producer) != "relax.nn.pad":
        return value
    pads = zero_pad_of(producer)
    attrs = value.attrs
    if pads is None or str(attrs.data_layout) != "NHWC" or pads[0] != (0, 0) or pads[3] != (0, 0):
        return value
    (top, bottom), (left, right) = pads[1:3]
    padding = [p + q for p, q in zip(ints(attrs.padding), (top, left, bottom, right), strict=True)]
    return relax.op.nn.conv2d(
        producer.args[0],
        value.args[1],
        attrs.strides,
        padding,
        attrs.dilation,
        int(attrs.groups),
        "NHWC",
        str(attrs.kernel_layout),
        "NHWC",
        attrs.out_dtype,
    )
