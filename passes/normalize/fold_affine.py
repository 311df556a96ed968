"""Per-channel arithmetic with constants goes into the weights and bias of the convolution or matmul beside it.

    (conv2d(x, w) * a - b) / c + d ...        ->  conv2d(x, w') + bias'
    conv2d((x / s) * a, w)                    ->  conv2d(x, w')
    conv2d(x - m, w), no padding              ->  conv2d(x, w) + bias'     a padded border would need -m, not 0

Computed in float64. Expects NHWC / OHWI convolutions (stands after ChannelsLast) and batch_norm taken apart (Simplify).
Leaves alone what is used more than once, arithmetic with no convolution or matmul beside it, and arithmetic that
belongs to an activation such as hard-sigmoid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from tvm_mpq.passes.normalize.activations import find_activation
from tvm_mpq.passes.normalize.exprs import (
    array_of,
    channel_vector,
    const,
    ints,
    is_constant,
    is_float,
    op_name,
    shape_of,
)
from tvm_mpq.passes.normalize.rewrite import Rewriter

Vector = npt.NDArray[np.float64]

_ARITHMETIC = frozenset({"relax.add", "relax.multiply", "relax.subtract", "relax.divide"})


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.FoldAffine")
class FoldAffine:
    """Fold per-channel scales and shifts into weights and bias."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return _Rewriter(mod).run()


@dataclass(frozen=True)
class _Affine:
    """y = x * scale + shift, float64[channels]."""

    x: relax.Expr
    scale: Vector
    shift: Vector


@dataclass(frozen=True)
class _Weighted:
    """A convolution (weight OHWI) or matmul (weight [I, O]) while constants are folded into it."""

    call: relax.Call
    data: relax.Expr
    weight: Vector
    bias: Vector
    has_bias: bool = False

    def after(self, affine: _Affine) -> _Weighted:
        shaped = affine.scale.reshape(-1, 1, 1, 1) if self.weight.ndim == 4 else affine.scale
        has_bias = self.has_bias or bool(affine.shift.any())
        return replace(
            self, weight=self.weight * shaped, bias=self.bias * affine.scale + affine.shift, has_bias=has_bias
        )

    def before(self, affine: _Affine) -> _Weighted | None:
        """With `affine` on its data; None when a padded border forbids it."""
        if self.weight.ndim == 2:
            added = affine.shift @ self.weight
            weight = self.weight * affine.scale[:, None]
        else:
            if affine.shift.any() and any(ints(self.call.attrs.padding)):
                return None
            groups = int(self.call.attrs.groups)
            outputs, inputs = self.weight.shape[0], self.weight.shape[3]
            group = np.arange(outputs) // (outputs // groups)
            channel = group[:, None] * inputs + np.arange(inputs)[None, :]  # [O, I / groups] -> input channel
            added = np.einsum("ohwi,oi->o", self.weight, affine.shift[channel])
            weight = self.weight * affine.scale[channel][:, None, None, :]
        has_bias = self.has_bias or bool(affine.shift.any())
        return replace(self, data=affine.x, weight=weight, bias=self.bias + added, has_bias=has_bias)


class _Rewriter(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._folded: set[relax.Var] = set()  # users that a convolution before them has swallowed
        acts = (find_activation(var, self.value) for var, _ in self.bindings)
        self._activation = {v for act in acts if act is not None for v in (*act.inner, act.root)}

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        if var in self._folded:
            return
        weighted = _weighted(self.remap(value))
        if weighted is None:
            super().visit(var, value)
            return
        weighted = self._fold_before(weighted, var)
        last, after = self._fold_after(weighted, var)
        result = self.emit(self._call(after), var.name)
        if after.has_bias:
            result = self.emit(relax.op.add(result, const(after.bias.astype(np.float32))), last.name)
        self.replace(last, result)

    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        return value

    def _fold_before(self, weighted: _Weighted, var: relax.Var) -> _Weighted:
        """Walk up from the data through arithmetic that nothing else uses."""
        old = self.value[var].args[0]
        taken = self._folded | self._activation
        while old in self.value and old not in taken and self.only_use(old) is not None:
            affine = _affine(self.value[old], old)
            folded = None if affine is None else weighted.before(replace(affine, x=self.remap(affine.x)))
            if affine is None or folded is None:
                break
            weighted, old = folded, affine.x
        return weighted

    def _fold_after(self, weighted: _Weighted, var: relax.Var) -> tuple[relax.Var, _Weighted]:
        """Walk down through arithmetic as long as it is the only user; returns the last variable that was folded."""
        while (i := self.only_use(var)) is not None:
            user, value = self.bindings[i]
            affine = _affine(value, user)
            if affine is None or not affine.x.same_as(var) or user in self._activation:
                break
            weighted = weighted.after(affine)
            self._folded.add(user)
            var = user
        return var, weighted

    @staticmethod
    def _call(w: _Weighted) -> relax.Call:
        weight = const(w.weight.astype(np.float32))
        attrs = w.call.attrs
        if w.weight.ndim == 2:
            return relax.op.matmul(w.data, weight, attrs.out_dtype)
        return relax.op.nn.conv2d(
            w.data, weight, attrs.strides, attrs.padding, attrs.dilation, int(attrs.groups), "NHWC", "OHWI", "NHWC"
        )


def _weighted(call: relax.Expr) -> _Weighted | None:
    """A float32 NHWC convolution or a matmul with constant weights."""
    name = op_name(call)
    if name not in ("relax.nn.conv2d", "relax.matmul"):
        return None
    data, weight = call.args
    if not (is_constant(weight) and is_float(weight) and is_float(data)):
        return None
    if name == "relax.nn.conv2d":
        layouts = (str(call.attrs.data_layout), str(call.attrs.kernel_layout), str(call.attrs.out_layout) or "NHWC")
        if layouts != ("NHWC", "OHWI", "NHWC"):
            return None
    array = array_of(weight).astype(np.float64)
    if name == "relax.matmul" and (array.ndim != 2 or len(shape_of(data) or ()) < 2):
        return None
    outputs = array.shape[0] if array.ndim == 4 else array.shape[1]
    return _Weighted(call, data, array, np.zeros(outputs))


def _affine(value: relax.Expr, var: relax.Var) -> _Affine | None:
    """`value`, bound to `var`, as x * scale + shift along the last axis; None for anything else."""
    name = op_name(value)
    shape = shape_of(var)
    if name not in _ARITHMETIC or not shape or not is_float(var):
        return None
    a, b = value.args
    constant_first = is_constant(a)
    x, c = (b, a) if constant_first else (a, b)
    if shape_of(x) != shape or is_constant(x):
        return None
    vector = channel_vector(c, len(shape), shape[-1])
    if vector is None or not np.isfinite(vector).all():
        return None
    one, zero = np.ones_like(vector), np.zeros_like(vector)
    if name == "relax.add":
        return _Affine(x, one, vector)
    if name == "relax.multiply":
        return _Affine(x, vector, zero)
    if name == "relax.subtract":
        return _Affine(x, -one, vector) if constant_first else _Affine(x, one, -vector)
    if constant_first or not vector.all():
        return None
    return _Affine(x, 1.0 / vector, zero)
