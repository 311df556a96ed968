"""Building small networks without an importer, running them through stock TVM, and what every pass must hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax

from tvm_mpq.schema import Workload

TARGET = tvm.target.Target({"kind": "llvm", "opt-level": 0})  # quick to compile; the networks are small


class Build:
    """Emits operators into `main`; constants come from a seeded generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.builder = relax.BlockBuilder()

    def __call__(self, expr: relax.Expr, name: str = "") -> relax.Var:
        return self.builder.emit(expr, name)

    def const(self, *shape: int, low: float = -1.0, high: float = 1.0) -> relax.Expr:
        return relax.const(self.rng.uniform(low, high, shape).astype("float32"))

    def conv(self, x: relax.Expr, out: int, kernel: int = 3, name: str = "", **attrs: Any) -> relax.Var:
        """A convolution of NCHW maps without bias."""
        channels = int(x.ty.shape[1]) // attrs.get("groups", 1)
        return self(relax.op.nn.conv2d(x, self.const(out, channels, kernel, kernel), **attrs), name)

    def conv_nhwc(self, x: relax.Expr, out: int, kernel: int = 3, name: str = "", **attrs: Any) -> relax.Var:
        channels = int(x.ty.shape[3]) // attrs.get("groups", 1)
        weight = self.const(out, kernel, kernel, channels)
        return self(relax.op.nn.conv2d(x, weight, data_layout="NHWC", kernel_layout="OHWI", **attrs), name)


class Lab:
    """Builds, runs and looks at modules."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def module(self, body: Callable[..., Any], *shapes: tuple[int, ...], dtype: str = "float32") -> tvm.IRModule:
        """`body(build, *inputs)` emits the network and returns its result, a tensor or a tuple of them."""
        build = Build(self.rng)
        inputs = [relax.Var(f"x{i}", relax.TensorType(s, dtype)) for i, s in enumerate(shapes)]
        with build.builder.function("main", inputs):
            with build.builder.dataflow():
                result = build.builder.emit_output(body(build, *inputs))
            build.builder.emit_func_output(result)
        return build.builder.get()

    def run(self, mod: tvm.IRModule, inputs: list[np.ndarray]) -> list[np.ndarray]:
        machine = relax.VirtualMachine(tvm.compile(mod, target=TARGET), tvm.cpu())
        result = machine["main"](*[tvm.runtime.tensor(x) for x in inputs])
        return [result.numpy()] if hasattr(result, "numpy") else [r.numpy() for r in result]

    def inputs(self, mod: tvm.IRModule) -> list[np.ndarray]:
        shapes = [[int(d) for d in p.ty.shape] for p in mod["main"].params]
        return [
            self.rng.normal(0, 2, s).astype(str(p.ty.dtype)) for s, p in zip(shapes, mod["main"].params, strict=True)
        ]

    def apply(self, passes: list[Any], mod: tvm.IRModule, tolerance: float = 1e-5) -> tvm.IRModule:
        """Run the passes; check all that holds for every pass. The tolerance is relative to the largest output."""
        before = tvm.IRModule(dict(mod.functions.items()))
        new = tvm.transform.Sequential(passes)(mod)
        assert tvm_ffi.structural_equal(mod, before), "the input module was changed"
        relax.analysis.well_formed(new)
        again = tvm.transform.Sequential(passes)(new)
        assert tvm_ffi.structural_equal(again, new), "the second run changed something"
        inputs = self.inputs(mod)
        for want, got in zip(self.run(mod, inputs), self.run(new, inputs), strict=True):
            assert want.shape == got.shape and want.dtype == got.dtype
            scale = max(1e-6, float(np.abs(want).max()))
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)
        return new

    @staticmethod
    def bindings(mod: tvm.IRModule) -> list[tuple[relax.Var, relax.Expr]]:
        return [(b.var, b.value) for block in mod["main"].body.blocks for b in block.bindings]

    def ops(self, mod: tvm.IRModule) -> list[str]:
        """What main calls, in order: kinds of composites and names of operators without `relax.`."""
        names = []
        for _, value in self.bindings(mod):
            if isinstance(value, relax.Call) and isinstance(value.op, relax.GlobalVar):
                names.append(str(mod[value.op].attrs["mpq.kind"]))
            elif isinstance(value, relax.Call):
                names.append(str(value.op.name).removeprefix("relax."))
            elif not isinstance(value, relax.Tuple):
                names.append(type(value).__name__)
        return names

    @staticmethod
    def attrs(mod: tvm.IRModule) -> dict[str, dict[str, Any]]:
        """Per composite by name: kind, activation and workload."""
        import json

        found = {}
        for function in mod.functions.values():
            attrs = function.attrs
            if isinstance(function, relax.Function) and attrs is not None and "mpq.kind" in attrs:
                text = str(attrs["mpq.workload"]) if "mpq.workload" in attrs else None
                found[str(attrs["mpq.name"])] = {
                    "kind": str(attrs["mpq.kind"]),
                    "activation": str(attrs["mpq.activation"]),
                    "workload": None if text is None else Workload.from_json(json.loads(text)),
                }
        return found


@pytest.fixture
def lab(rng: np.random.Generator) -> Lab:
    return Lab(rng)
