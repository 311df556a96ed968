"""A loop nest that says which recurrent layer it is becomes a `recurrent` composite.

call_tir(recurrent, (gates, [state], weight, vectors))      ->      one composite call
"""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import tvm
from tvm import relax

from tvm_mpq.passes.normalize.composites import Composite, Emit, readable_name
from tvm_mpq.passes.normalize.exprs import array_of, is_constant, op_name
from tvm_mpq.schema import WORKLOAD_ATTRIBUTE, RecurrentWorkload, Workload


def find_recurrent(mod: tvm.IRModule, var: relax.Var, value: relax.Expr) -> Composite | None:
    """The composite for a binding; None for what is no recurrent layer with constant weights."""
    if op_name(value) != "relax.call_tir" or not isinstance(value.args[1], relax.Tuple):
        return None
    attrs = mod[value.args[0]].attrs
    if not attrs or WORKLOAD_ATTRIBUTE not in attrs:
        return None
    workload = Workload.from_json(json.loads(str(attrs[WORKLOAD_ATTRIBUTE])))
    *activations, weight, vectors = value.args[1].fields
    if not isinstance(workload, RecurrentWorkload) or not (is_constant(weight) and is_constant(vectors)):
        return None
    gates, *state = activations
    if not isinstance(gates, relax.Var):
        return None
    call, constants = value, (array_of(weight), array_of(vectors))

    def body(params: list[relax.Var], emit: Emit) -> relax.Expr:
        operands = relax.Tuple(params if own else _apart(params, workload, emit))
        return emit(relax.Call(call.op, [call.args[0], operands], call.attrs, call.ty_args))

    own = not state or isinstance(state[0], relax.Var)
    stated = workload
    if not own:  # a state that folding has made constant
        stated, activations = dataclasses.replace(workload, initial="constant"), [gates]
        old = constants[1][: stated.parts["state"][0]]
        constants = (constants[0], np.concatenate([old, array_of(state[0]).reshape(-1)]))
    return Composite("recurrent", tuple(activations), var, body, constants, stated, readable=readable_name(var))


def _apart(params: list[relax.Var], w: RecurrentWorkload, emit: Emit) -> list[relax.Expr]:
    """What the loop nest takes, whose state lies behind the vectors."""
    gates, weight, vectors = params
    offset, shape = dataclasses.replace(w, initial="constant").parts["state"]
    state = emit(relax.op.strided_slice(vectors, [0], [offset], [offset + math.prod(shape)]))
    rest = emit(relax.op.strided_slice(vectors, [0], [0], [w.vectors_size]))
    return [gates, emit(relax.op.reshape(state, shape)), weight, rest]
