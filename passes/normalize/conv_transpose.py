"""Transposed convolutions as convolutions of stride 1 with input dilation: zeros between the elements of their data.

    conv2d_transpose(x, w, strides)  ->  conv2d(dilation(x, strides), flipped w)      by ChannelsLast
    conv2d(dilation(x), w)           ->  one composite, whose workload says so        by FuseOperators

The zeros are a call of a private function, into which no pass looks: as plain operators they are a reshape, a pad and a
slice, which other passes would merge with their neighbours. Leaves alone what the kernel table has no kernel for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvm_mpq.kernels import Request, fitting
from tvm_mpq.numerics.arrays import Array
from tvm_mpq.passes.normalize.exprs import array_of, const, ints, is_constant, is_float, op_name, shape_of
from tvm_mpq.schema import FLOAT_BITS, FP32, Conv2dWorkload

_ATTR = "mpq.input_dilation"

Factors = tuple[int, int]


def is_transposed(value: relax.Expr) -> bool:
    return op_name(value) == "relax.nn.conv2d_transpose"


def is_convolution(call: relax.Call) -> bool:
    """Whether a transposed convolution of NCHW maps can be written as one with input dilation, and has a kernel so."""
    attrs, (data, weight) = call.attrs, call.args
    plain = str(attrs.data_layout) == "NCHW" and str(attrs.out_layout) in ("", "NCHW")
    plain = plain and sorted(str(attrs.kernel_layout)) == sorted("IOHW") and is_constant(weight)
    if not (plain and is_float(data) and is_float(weight)):
        return False
    workload = _workload(call)
    return min(workload.padding) >= 0 and has_kernel(workload)


def has_kernel(workload: Conv2dWorkload) -> bool:
    """Whether the table has a float kernel for it that any CPU runs."""
    return bool(fitting(Request(workload, FP32, FLOAT_BITS, frozenset())))


def input_dilation(call: relax.Call) -> Factors:
    """The stride of a transposed convolution; (1, 1) of any other operator."""
    if not is_transposed(call):
        return 1, 1
    rows, columns = ints(call.attrs.strides)
    return rows, columns


def convolution(call: relax.Call, data: relax.Expr) -> relax.Call:
    """The convolution of NHWC data, dilated already, that a transposed one is."""
    w, weight = _workload(call), _iohw(call)[:, :, ::-1, ::-1]
    ins, outs = w.in_channels // w.groups, w.out_channels // w.groups
    grouped = weight.reshape(w.groups, ins, outs, *w.kernel).transpose(0, 2, 3, 4, 1)
    ohwi = const(grouped.reshape(w.out_channels, *w.kernel, ins))
    return relax.op.nn.conv2d(data, ohwi, w.stride, w.padding, w.dilation, w.groups, "NHWC", "OHWI", "NHWC")


def _iohw(call: relax.Call) -> Array:
    return np.transpose(array_of(call.args[1]), [str(call.attrs.kernel_layout).index(letter) for letter in "IOHW"])


def _workload(call: relax.Call) -> Conv2dWorkload:
    attrs, (n, c, h, w) = call.attrs, shape_of(call.args[0]) or (0, 0, 0, 0)
    _, outputs, *kernel = _iohw(call).shape
    dilation, groups = ints(attrs.dilation), int(attrs.groups)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    behind = [r + extra for r, extra in zip(reach, ints(attrs.output_padding), strict=True)]
    top, left, bottom, right = (r - p for r, p in zip((*reach, *behind), ints(attrs.padding), strict=True))
    return Conv2dWorkload(
        batch=n,
        in_height=h,
        in_width=w,
        in_channels=c,
        out_channels=outputs * groups,
        kernel=(kernel[0], kernel[1]),
        padding=(top, left, bottom, right),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
        input_dilation=input_dilation(call),
    )


def dilated(x: relax.Expr, factors: Factors, emit: Callable[[relax.Expr], relax.Expr]) -> relax.Expr:
    """A map [N, H, W, C] with `factors - 1` zeros between neighbouring rows and columns, in plain operators."""
    (n, h, w, c), (rows, columns) = shape_of(x) or (0, 0, 0, 0), factors
    apart = emit(relax.op.reshape(x, (n, h, 1, w, 1, c)))
    apart = emit(relax.op.nn.pad(apart, [0, 0, 0, 0, 0, rows - 1, 0, 0, 0, columns - 1, 0, 0]))
    maps = emit(relax.op.reshape(apart, (n, h * rows, w * columns, c)))
    return emit(relax.op.strided_slice(maps, [1, 2], [0, 0], [(h - 1) * rows + 1, (w - 1) * columns + 1]))


def dilation_call(builder: relax.BlockBuilder, x: relax.Expr, factors: Factors) -> relax.Call:
    """A call of the private function that dilates maps of this shape."""
    scratch, data = relax.BlockBuilder(), relax.Var("data", x.ty)
    with scratch.function("main", [data]):
        with scratch.dataflow():
            result = scratch.emit_output(dilated(data, factors, scratch.emit))
        scratch.emit_func_output(result)
    function = scratch.get()["main"].without_attr("global_symbol").with_attr(_ATTR, list(factors))
    return relax.Call(builder.add_func(function, "mpq_input_dilation"), [x])


def dilation_of(mod: tvm.IRModule, value: relax.Expr | None) -> Factors | None:
    """The factors of a call that `dilation_call` made; None for anything else."""
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.GlobalVar):
        return None
    attrs = mod[value.op].attrs
    if attrs is None or _ATTR not in attrs:
        return None
    rows, columns = ints(attrs[_ATTR])
    return rows, columns
