from __future__ import annotations

import math

import pytest
from tvm import relax

from tvm_mpq.passes.normalize.activations import find_activation
from tvm_mpq.passes.normalize.fuse_operators import FuseOperators

op = relax.op
SHAPE = (2, 3, 7)


def c(value: float) -> relax.Expr:
    return relax.const(value, "float32")


def _gelu_tanh(b, x, *, power: bool) -> relax.Expr:
    cube = b(op.power(x, c(3.0))) if power else b(op.multiply(b(op.multiply(x, x)), x))
    inner = b(op.multiply(c(math.sqrt(2 / math.pi)), b(op.add(x, b(op.multiply(c(0.044715), cube))))))
    return op.multiply(b(op.multiply(c(0.5), x)), b(op.add(c(1.0), b(op.tanh(inner)))))


def _gelu(b, x) -> relax.Expr:
    gate = b(op.add(b(op.erf(b(op.divide(x, c(math.sqrt(2)))))), c(1.0)))
    return op.multiply(b(op.multiply(x, gate)), c(0.5))


FORMS = {
    "relu": ("relu", lambda b, x: op.nn.relu(x)),
    "relu as maximum": ("relu", lambda b, x: op.maximum(c(0.0), x)),
    "relu as clip": ("relu", lambda b, x: op.clip(x, 0, math.inf)),
    "relu6": ("clip:0.0:6.0", lambda b, x: op.nn.relu6(x)),
    "clip": ("clip:-0.5:0.75", lambda b, x: op.clip(x, -0.5, 0.75)),
    "clip as minimum and maximum": ("clip:0.0:6.0", lambda b, x: op.minimum(b(op.maximum(x, c(0.0))), c(6.0))),
    "relu, then clip": ("clip:0.0:6.0", lambda b, x: op.clip(b(op.nn.relu(x)), -1, 6)),
    "clip, then relu": ("clip:0.0:1.5", lambda b, x: op.nn.relu(b(op.clip(x, -1, 1.5)))),
    "sigmoid": ("sigmoid", lambda b, x: op.sigmoid(x)),
    "tanh": ("tanh", lambda b, x: op.tanh(x)),
    "silu": ("silu", lambda b, x: op.nn.silu(x)),
    "silu as a product": ("silu", lambda b, x: op.multiply(b(op.sigmoid(x)), x)),
    "gelu": ("gelu", lambda b, x: op.nn.gelu(x)),
    "gelu by erf": ("gelu", _gelu),
    "gelu_tanh": ("gelu_tanh", lambda b, x: op.nn.gelu_tanh(x)),
    "gelu_tanh by power": ("gelu_tanh", lambda b, x: _gelu_tanh(b, x, power=True)),
    "gelu_tanh by products": ("gelu_tanh", lambda b, x: _gelu_tanh(b, x, power=False)),
    "leaky relu": ("leaky_relu:0.125", lambda b, x: op.nn.leakyrelu(x, 0.125)),
    "leaky relu as maximum": ("leaky_relu:0.25", lambda b, x: op.maximum(b(op.multiply(c(0.25), x)), x)),
    "prelu with one slope": ("leaky_relu:0.5", lambda b, x: op.nn.prelu(x, relax.const([0.5] * 7, "float32"), 2)),
    "hard sigmoid": ("hard_sigmoid", lambda b, x: op.divide(b(op.clip(b(op.add(x, c(3.0))), 0, 6)), c(6.0))),
    "hard sigmoid by slope": (
        "hard_sigmoid",
        lambda b, x: op.clip(b(op.add(b(op.multiply(c(1 / 6), x)), c(0.5))), 0, 1),
    ),
    "hard swish": (
        "hard_swish",
        lambda b, x: op.divide(b(op.multiply(x, b(op.clip(b(op.add(x, c(3.0))), 0, 6)))), c(6.0)),
    ),
    "hard swish by halves": (
        "hard_swish",
        lambda b, x: op.multiply(x, b(op.divide(b(op.nn.relu6(b(op.add(c(3.0), x)))), c(6.0)))),
    ),
    "hard swish with two clamps": (
        "hard_swish",
        lambda b, x: op.multiply(
            b(op.multiply(b(op.minimum(b(op.maximum(b(op.add(x, c(3.0))), c(0.0))), c(6.0))), x)), c(1 / 6)
        ),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_recognised_and_computes_the_same(lab, form) -> None:
    text, build = FORMS[form]
    new = lab.apply([FuseOperators()], lab.module(lambda b, x: b(build(b, x)), SHAPE))
    assert [a["activation"] for a in lab.attrs(new).values()] == [text]
    assert lab.ops(new) == ["activation"]


NEAR = {
    "hard sigmoid of other slope": lambda b, x: op.clip(b(op.add(b(op.multiply(c(0.2), x)), c(0.5))), 0, math.inf),
    "hard swish of other shift": lambda b, x: op.multiply(x, b(op.sigmoid(b(op.add(x, c(3.0)))))),
    "scaled silu": lambda b, x: op.multiply(b(op.multiply(x, b(op.sigmoid(x)))), c(2.0)),
    "quick gelu": lambda b, x: op.multiply(x, b(op.sigmoid(b(op.multiply(x, c(1.702)))))),
    "gelu with another constant": lambda b, x: op.multiply(
        b(op.multiply(x, c(0.5))), b(op.add(b(op.erf(b(op.multiply(x, c(0.8))))), c(1.0)))
    ),
    "one-sided clip": lambda b, x: op.maximum(x, c(0.5)),
    "steep leaky relu": lambda b, x: op.maximum(b(op.multiply(c(1.5), x)), x),
    "prelu with several slopes": lambda b, x: op.nn.prelu(x, b.const(7), 2),
    "relu with a bound per channel": lambda b, x: op.maximum(x, b.const(7)),
}


@pytest.mark.parametrize("form", NEAR)
def test_what_only_looks_like_an_activation_is_none(lab, form) -> None:
    def body(b, x):
        return b(NEAR[form](b, x))

    mod = lab.module(body, SHAPE)
    values = dict(lab.bindings(mod))
    found = [find_activation(var, values) for var, value in values.items() if isinstance(value, relax.Call)]
    assert found[-1] is None or found[-1].x.name != "x0"  # at most a clamp of something computed from the input
    lab.apply([FuseOperators()], mod)


def test_an_intermediate_value_that_others_use_keeps_its_operators(lab) -> None:
    def body(b, x):
        gate = b(op.clip(b(op.add(x, c(3.0))), 0, 6))
        return b(relax.Tuple([b(op.divide(b(op.multiply(x, gate)), c(6.0))), gate]))

    new = lab.apply([FuseOperators()], lab.module(body, SHAPE))
    assert [a["activation"] for a in lab.attrs(new).values() if a["kind"] == "activation"] == ["clip:0.0:6.0"]
