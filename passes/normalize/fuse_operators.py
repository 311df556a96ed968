"""Every quantizable operator, with what can be computed along with it, becomes one call of a composite function.

    conv2d -> add(bias) -> add(residual) -> activation      one `conv2d` composite; the same for matmul as `linear`,
                                                            and for conv2d behind input dilation
    add / multiply -> activation                            one `add` / `multiply` composite
    matmul(softmax(matmul(q, k)), v), joined heads          one `attention` composite, with what cuts q, k and v
    pooling, concat, slice and pad, reshape, activation     one composite each, a recurrent layer's loop too

Stands last: expects ChannelsLast, MergeCopy and FoldAffine before it. Leaves alone whatever has no composite form
(softmax, normalisation, other matmuls of two activations, arithmetic with constants, what holds infinities, ...), and
composites made before.
A residual add of two convolutions is fused into the later one. The form is described in composites.py.

In one file: the patterns are tried in one order, and each leaves nodes to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.passes.normalize.activations import Activation, find_activation
from tvm_mpq.passes.normalize.attention import attention_composite, find_attention
from tvm_mpq.passes.normalize.composites import Composite, Emit, Names, build_function, global_name, readable_name
from tvm_mpq.passes.normalize.conv_transpose import dilated, dilation_of
from tvm_mpq.passes.normalize.exprs import (
    array_of,
    channel_vector,
    const,
    ints,
    is_constant,
    is_float,
    op_name,
    prod,
    shape_of,
)
from tvm_mpq.passes.normalize.infinite import infinite
from tvm_mpq.passes.normalize.recurrent import find_recurrent
from tvm_mpq.passes.normalize.rewrite import Rewriter
from tvm_mpq.passes.normalize.weightless import find_weightless
from tvm_mpq.schema import ActivationWorkload, AddWorkload, Conv2dWorkload, MultiplyWorkload


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.FuseOperators")
class FuseOperators:
    """Group operators into composite functions.

    Raises
    ------
    UnsupportedModelError
        If a weight holds NaN or infinity.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return _Rewriter(mod).run()


@dataclass(frozen=True)
class _Layer:
    """A convolution or matmul with its bias; `end` is the last variable of the two."""

    var: relax.Var
    call: relax.Call
    end: relax.Var
    bias: np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class _Rewriter(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._swallowed: set[relax.Var] = set()
        self._infinite = infinite(self.bindings)
        self._acts = self._find_activations()
        self._layers = self._find_layers()
        self._composites = self._plan()
        self._names = Names(mod, self._composites.values())

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        composite = self._composites.get(var)
        if composite is None:
            if var not in self._swallowed:
                super().visit(var, value)
            return
        inputs = [self.remap(x) for x in composite.inputs]
        name = self._names.give(composite)
        function = self.builder.add_func(build_function(composite, inputs, name), global_name(name))
        call = relax.Call(function, [*inputs, *(const(c) for c in composite.constants)])
        self.replace(var, self.emit(call, name))

    def rewrite(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        return value

    def _find_activations(self) -> dict[relax.Var, Activation]:
        """Activations by their argument, where that has no other use. Largest first: a hard-swish holds a clip."""
        found: dict[relax.Var, Activation] = {}
        inside: set[relax.Var] = set()
        self._standalone: dict[relax.Var, Activation] = {}
        for var, _ in reversed(self.bindings):
            act = find_activation(var, self.value) if is_float(var) and var not in inside else None
            if act is None or not is_float(act.x) or shape_of(act.x) != shape_of(var):
                continue
            own = {self.index[v] for v in act.inner | {act.root}}
            if any(not set(self.uses[v]) <= own for v in act.inner):
                continue
            inside |= act.inner
            self._standalone[var] = act
            if set(self.uses[act.x]) <= own:
                found[act.x] = act
        return found

    def _find_layers(self) -> dict[relax.Var, _Layer]:
        """Convolutions and matmuls with constant weights, by the variable at their end."""
        layers = {}
        for var, value in self.bindings:
            if not (_is_conv2d(value) or _is_linear(value)) or not is_float(var):
                continue
            _check_finite(var, value.args[1])
            outputs = (shape_of(var) or (0,))[-1]
            bias, end = np.zeros(outputs, np.float32), var
            user = self._user(var)
            if user is not None and op_name(self.value[user]) == "relax.add" and shape_of(user) == shape_of(var):
                a, b = self.value[user].args
                vector = channel_vector(b if a.same_as(var) else a, len(shape_of(var) or ()), outputs)
                if vector is not None and np.isfinite(vector).all():
                    bias, end = vector.astype(np.float32), user
            layers[end] = _Layer(var, value, end, bias)
        return layers

    def _user(self, var: relax.Var) -> relax.Var | None:
        i = self.only_use(var)
        return None if i is None else self.bindings[i][0]

    def _plan(self) -> dict[relax.Var, Composite]:
        """The composites by the last variable of each; what they replace is noted as swallowed."""
        plan: dict[relax.Var, Composite] = {}
        for layer in self._layers.values():
            self._keep(self._layer_composite(layer), plan)
        for composite in self._attentions():
            self._keep(composite, plan)
        parts = {v for act in self._standalone.values() for v in (*act.inner, act.root)}
        reshapes = []
        for var, value in reversed(self.bindings):  # a pad takes the slice before it
            if var not in self._swallowed | self._infinite and var not in plan and var not in parts:
                weightless = find_recurrent(self.mod, var, value)
                weightless = weightless or find_weightless(var, value, self._slice_before(value))
                if weightless is not None and weightless.kind == "reshape":
                    reshapes.append(weightless)
                elif weightless is not None:
                    self._keep(self._with_activation(weightless), plan)
        for var, act in self._standalone.items():
            if var not in self._swallowed and var not in plan and act.x not in self._infinite:
                workload = ActivationWorkload(shape_of(var) or (), act.text)
                readable = readable_name(var)
                whole = Composite("activation", (act.x,), var, _nothing, (), workload, act.text, readable, act.inner)
                self._keep(whole, plan)
        read = {x for composite in plan.values() for x in composite.inputs}
        for reshape in reshapes:
            if reshape.output in read or reshape.inputs[0] in plan:  # elsewhere it is a matter of float operators
                self._keep(reshape, plan)
        return plan

    def _attentions(self) -> Iterator[Composite]:
        for var, value in self.bindings:
            found = find_attention(self, var, value)
            if found is not None and not self._infinite & {var, *found.sources}:
                composite = attention_composite(self, found)
                if composite is not None:
                    yield composite

    def _keep(self, composite: Composite, plan: dict[relax.Var, Composite]) -> None:
        plan[composite.output] = composite
        self._swallowed |= composite.members - {composite.output}

    def _slice_before(self, value: relax.Expr) -> relax.Expr | None:
        source = value.args[0] if op_name(value) == "relax.nn.pad" else None
        alone = isinstance(source, relax.Var) and source in self.value and self.only_use(source) is not None
        return self.value[source] if alone and op_name(self.value[source]) == "relax.strided_slice" else None

    def _with_activation(self, composite: Composite) -> Composite:
        """With the activation that is the only user of its result, where its workload has room for one."""
        act = self._acts.get(composite.output)
        workload = composite.workload
        if act is None or not isinstance(workload, Conv2dWorkload | AddWorkload | MultiplyWorkload):
            return composite
        return replace(
            composite,
            output=act.root,
            activation=act.text,
            workload=replace(workload, activation=act.text),
            members=composite.members | act.inner | {composite.output},
        )

    def _layer_composite(self, layer: _Layer) -> Composite:
        residual, end = self._residual(layer)
        data = layer.call.args[0]
        members = {layer.var, layer.end, end}
        apart = dilation_of(self.mod, self.value.get(data))
        if apart is not None:
            members.add(data)
            data = self.value[data].args[0]
        weight = array_of(layer.call.args[1])
        conv = _is_conv2d(layer.call)
        weight = weight if conv else np.ascontiguousarray(weight.T)
        call = layer.call

        def body(params: list[relax.Var], emit: Emit) -> relax.Expr:
            w, b = params[-2:]
            if conv:
                x = params[0] if apart is None else dilated(params[0], apart, emit)
                product = emit(relax.Call(call.op, [x, w], call.attrs))
            else:
                product = emit(relax.op.matmul(params[0], emit(relax.op.permute_dims(w, (1, 0)))))
            result = emit(relax.op.add(product, b))
            return emit(relax.op.add(result, params[1])) if len(params) == 4 else result

        workload = (
            _conv_workload(call, data, weight.shape, apart or (1, 1)) if conv else _linear_workload(data, weight.shape)
        )
        composite = Composite(
            kind="conv2d" if conv else "linear",
            inputs=(data,) if residual is None else (data, residual),
            output=end,
            body=body,
            constants=(weight, layer.bias),
            workload=replace(workload, residual=residual is not None),
            readable=readable_name(layer.var, layer.end),
            members=frozenset(members),
        )
        return self._with_activation(composite)

    def _residual(self, layer: _Layer) -> tuple[relax.Expr | None, relax.Var]:
        """The tensor that is added to the layer's result, and the variable of the sum."""
        user = self._user(layer.end)
        if user is None or op_name(self.value[user]) != "relax.add":
            return None, layer.end
        a, b = self.value[user].args
        other = b if a.same_as(layer.end) else a
        if not isinstance(other, relax.Var) or other.same_as(layer.end) or not is_float(other):
            return None, layer.end
        if other in self._infinite:
            return None, layer.end
        if shape_of(other) != shape_of(layer.end):
            return None, layer.end
        rival = self._layers.get(other)
        if rival is not None and self._user(other) is not None and self.index[rival.var] > self.index[layer.var]:
            return None, layer.end
        return other, user


def _check_finite(layer: relax.Var, weight: relax.Expr) -> None:
    values = array_of(weight)
    count = int(np.count_nonzero(~np.isfinite(values)))
    if count:
        what = "NaN" if np.isnan(values).any() else "infinity"
        raise UnsupportedModelError(
            f"weights that may be quantized must be finite (got {what} in those of operator "
            f"{readable_name(layer) or layer.name!r}, {count} of {values.size} values); "
            "export the model from a sound checkpoint"
        )


def _nothing(params: list[relax.Var], _emit: Emit) -> relax.Expr:
    return params[0]


def _is_conv2d(value: relax.Expr) -> bool:
    """A float32 NHWC convolution with constant OHWI weights."""
    if op_name(value) != "relax.nn.conv2d" or not all(is_float(a) for a in value.args):
        return False
    layouts = (str(value.attrs.data_layout), str(value.attrs.kernel_layout))
    return layouts == ("NHWC", "OHWI") and isinstance(value.args[0], relax.Var) and is_constant(value.args[1])


def _is_linear(value: relax.Expr) -> bool:
    """A float32 matmul of activations [..., I] with a constant matrix [I, O]."""
    if op_name(value) != "relax.matmul" or not all(is_float(a) for a in value.args):
        return False
    ranks = [len(shape_of(a) or ()) for a in value.args]
    return ranks[0] >= 2 and ranks[1] == 2 and isinstance(value.args[0], relax.Var) and is_constant(value.args[1])


def _conv_workload(
    call: relax.Call, data: relax.Expr, weight: tuple[int, ...], input_dilation: tuple[int, int]
) -> Conv2dWorkload:
    attrs = call.attrs
    n, h, w, c = shape_of(data) or (0, 0, 0, 0)
    (sh, sw), (dh, dw) = ints(attrs.strides), ints(attrs.dilation)
    top, left, bottom, right = ints(attrs.padding)
    kernel, padding = (weight[1], weight[2]), (top, left, bottom, right)
    groups = int(attrs.groups)
    return Conv2dWorkload(
        n, h, w, c, weight[0], kernel, (sh, sw), padding, (dh, dw), groups, input_dilation=input_dilation
    )


def _linear_workload(data: relax.Expr, weight: tuple[int, ...]) -> Conv2dWorkload:
    rows = prod((shape_of(data) or ())[:-1])
    return Conv2dWorkload(1, 1, rows, weight[1], weight[0], (1, 1))
