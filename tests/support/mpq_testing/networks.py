"""Small networks in normal form, written as Normalize writes them, for tests of the passes behind it."""

from __future__ import annotations

import json

import numpy as np
import tvm
from tvm import relax

from tvm_mpq.schema import Conv2dWorkload, Pool2dWorkload, Workload


class NormalForm:
    """Builds a module of composites: each method adds one operator and returns its result."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        self._builder = relax.BlockBuilder()
        self._rng = np.random.default_rng(seed)
        self._input = relax.Var("x", relax.TensorType(shape, "float32"))
        self._todo: list[tuple[str, str, Workload | None, list[relax.Expr], tuple[int, ...], str]] = []
        self._shapes: dict[relax.Var, tuple[int, ...]] = {}
        self._ops: list = []

    def build(self, body) -> tvm.IRModule:
        """body(form, input) emits operators and returns the output variable."""
        with self._builder.function("main", [self._input], attrs={"num_input": 1}):
            with self._builder.dataflow():
                output = self._builder.emit_output(body(self, self._input))
            self._builder.emit_func_output(output)
        return self._builder.get()

    def nhwc(self, x: relax.Var) -> relax.Var:
        return self._builder.emit(relax.op.permute_dims(x, [0, 2, 3, 1]))

    def softmax(self, x: relax.Var) -> relax.Var:
        return self._builder.emit(relax.op.nn.softmax(x))

    def conv(
        self, name: str, x: relax.Var, out: int, *, kernel=3, stride=1, padding=1, activation="relu", residual=None
    ):
        n, h, w, c = _shape(x)
        work = Conv2dWorkload(
            n, h, w, c, out, (kernel, kernel), (stride, stride), (padding,) * 4, residual=residual is not None,
            activation=activation,
        )  # fmt: skip
        weight = self._rng.normal(0, 0.2, (out, kernel, kernel, c)).astype("float32")
        bias = self._rng.normal(0, 0.2, (out,)).astype("float32")

        def body(b: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
            data, *rest = args
            y = b.emit(
                relax.op.nn.conv2d(
                    data, rest[-2], strides=stride, padding=padding, data_layout="NHWC", kernel_layout="OHWI"
                )
            )
            y = b.emit(relax.op.add(y, rest[-1]))
            if residual is not None:
                y = b.emit(relax.op.add(y, rest[0]))
            return b.emit(relax.op.nn.relu(y)) if activation == "relu" else y

        args = [x] + ([residual] if residual is not None else []) + [relax.const(weight), relax.const(bias)]
        return self._composite(name, "conv2d", work, args, body, activation)

    def linear(self, name: str, x: relax.Var, out: int):
        rows, c = _shape(x)
        work = Conv2dWorkload(1, 1, rows, c, out, (1, 1))
        weight = self._rng.normal(0, 0.2, (out, c)).astype("float32")
        bias = self._rng.normal(0, 0.2, (out,)).astype("float32")

        def body(b: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
            y = b.emit(relax.op.matmul(args[0], relax.op.permute_dims(args[1])))
            return b.emit(relax.op.add(y, args[2]))

        return self._composite(name, "linear", work, [x, relax.const(weight), relax.const(bias)], body, "none")

    def global_average(self, name: str, x: relax.Var):
        n, h, w, c = _shape(x)
        work = Pool2dWorkload("avg", n, h, w, c, (h, w), (h, w), (0, 0, 0, 0), 1, 1)
        return self._composite(
            name,
            "avg_pool2d",
            work,
            [x],
            lambda b, a: b.emit(relax.op.nn.avg_pool2d(a[0], (h, w), layout="NHWC")),
            None,
        )

    def reshape(self, name: str, x: relax.Var, shape: tuple[int, ...]):
        return self._composite(name, "reshape", None, [x], lambda b, a: b.emit(relax.op.reshape(a[0], shape)), None)

    def _composite(self, name, kind, work, args, body, activation):
        inner = relax.BlockBuilder()
        params = [relax.Var(f"p{i}", _type(a)) for i, a in enumerate(args)]
        with inner.function("f", params, private=True):
            with inner.dataflow():
                out = inner.emit_output(body(inner, params))
            inner.emit_func_output(out)
        func = inner.get()["f"].with_attr("mpq.kind", kind).with_attr("mpq.name", name)
        if work is not None:
            func = func.with_attr("mpq.workload", json.dumps(work.to_json()))
        if activation is not None:
            func = func.with_attr("mpq.activation", activation)
        gvar = self._builder.add_func(func.without_attr("global_symbol"), name.replace(".", "_"))
        return self._builder.emit(relax.Call(gvar, args), name)


def _type(arg: relax.Expr):
    return arg.ty if isinstance(arg, relax.Var) else relax.TensorType(arg.value.shape, str(arg.value.dtype))


def _shape(x: relax.Var) -> tuple[int, ...]:
    return tuple(int(d) for d in x.ty.shape.values)


def residual_network() -> tvm.IRModule:
    """NCHW input, stem, residual block of odd channels, stride 2, average, classifier."""

    def body(form: NormalForm, x: relax.Var) -> relax.Var:
        y = form.conv("stem", form.nhwc(x), 20)
        z = form.conv("block.conv1", y, 20)
        y = form.conv("block.conv2", z, 20, residual=y)
        y = form.conv("down", y, 33, stride=2)
        y = form.reshape("flatten", form.global_average("pool", y), (1, 33))
        return form.linear("fc", y, 10)

    return NormalForm((1, 3, 12, 12)).build(body)
