"""FuseNorm: layer normalisation as one kernel, boundaries swallowed where they stand beside it."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_mpq.kernels.registry import default_kernel
from tvm_mpq.numerics.affine import dequantize, quantize
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.passes.fuse_norm import FuseNorm
from tvm_mpq.passes.lowering import conversion_request
from tvm_mpq.passes.realize import KERNEL_ATTR
from tvm_mpq.schema import TensorQuant, padded_channels
from tvm_mpq.targets import features, local_row, to_tvm_attrs

FEATURES = features(local_row())
TARGET = tvm.target.Target(to_tvm_attrs(local_row(), 1))
FUSE = FuseNorm(features=FEATURES, threads=1, kernel_attr=KERNEL_ATTR)
BEFORE, AFTER = TensorQuant(8, 0.03125, 117), TensorQuant(8, 0.0234375, 140)


def network(
    shape: tuple[int, ...], rng: np.random.Generator, *, before: bool = False, after: bool = False, twice: bool = False
) -> tuple[tvm.IRModule, np.ndarray, np.ndarray]:
    """[dequantize ->] layer_norm [-> quantize], and its weights. twice: somebody reads the floats, too."""
    gamma, beta = (rng.normal(1, 0.5, shape[-1]).astype(np.float32) for _ in range(2))
    builder = relax.BlockBuilder()
    stored = (*shape[:-1], padded_channels(shape[-1]))
    x = relax.Var("x", relax.TensorType(stored if before else shape, "uint8" if before else "float32"))

    def boundary(value: relax.Expr, bits: tuple[int, int], quants: tuple[TensorQuant | None, ...]) -> relax.Var:
        kernel = default_kernel(conversion_request(shape, *bits, False, FEATURES, 1))
        func = kernel.build().without_attr("global_symbol").with_attr(KERNEL_ATTR, kernel.request.key)
        constants = kernel.constants(Operands((quants[0],), quants[1]))
        args = [value, *map(relax.const, constants)]
        result = relax.TensorType(shape, "float32") if bits[1] == 32 else relax.TensorType(stored, "uint8")
        return builder.emit(relax.call_tir(builder.add_func(func, "convert"), args, result))

    with builder.function("main", [x]):
        with builder.dataflow():
            value = boundary(x, (8, 32), (BEFORE, None)) if before else x
            value = floats = builder.emit(
                relax.op.nn.layer_norm(value, relax.const(gamma), relax.const(beta), [-1], 1e-5)
            )
            if after:
                value = boundary(value, (32, 8), (None, AFTER))
            result = builder.emit_output(relax.Tuple([value, floats]) if twice else value)
        builder.emit_func_output(result)
    return builder.get(), gamma, beta


def definition(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    centered = wide - wide.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * gamma + beta


def run(mod: tvm.IRModule, x: np.ndarray) -> np.ndarray:
    machine = relax.VirtualMachine(tvm.compile(mod, target=TARGET), tvm.cpu())
    return np.asarray(machine["main"](tvm.runtime.tensor(x)).numpy())


def calls(mod: tvm.IRModule) -> int:
    return mod["main"].script().count("call_tir(")


@pytest.mark.parametrize("channels", [5, 16, 17, 100, 192, 777])
def test_floats(channels: int, rng: np.random.Generator) -> None:
    mod, gamma, beta = network((2, 7, channels), rng)
    fused = FUSE(mod)
    assert calls(fused) == 1 and "layer_norm(x" not in fused["main"].script().replace("cls.", "")
    x = rng.normal(3, 2, (2, 7, channels)).astype(np.float32)
    want = definition(x, gamma, beta)
    np.testing.assert_allclose(run(fused, x), want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("before", [False, True])
def test_quantizes_on_the_way_out(before: bool, rng: np.random.Generator) -> None:
    """Equal but where the real value lies on the border of two bytes."""
    shape = (1, 9, 48)
    mod, gamma, beta = network(shape, rng, before=before, after=True)
    fused = FUSE(mod)
    assert calls(fused) == 1
    x = rng.normal(0, 2, shape).astype(np.float32)
    data = quantize(x, BEFORE) if before else x
    want = definition(dequantize(data, BEFORE) if before else x, gamma, beta)
    position = want / AFTER.scale
    safe = np.abs(position - np.floor(position) - 0.5) > 1e-3
    assert safe.mean() > 0.99
    np.testing.assert_array_equal(run(fused, data)[safe], quantize(want.astype(np.float32), AFTER)[safe])


def test_floats_that_others_read_stay(rng: np.random.Generator) -> None:
    mod, _, _ = network((1, 4, 32), rng, before=True, after=True, twice=True)
    fused = FUSE(mod)
    assert calls(fused) == 2  # the dequantization is swallowed, the quantization is not
    x = rng.integers(0, 256, (1, 4, 32)).astype(np.uint8)
    machine = relax.VirtualMachine(tvm.compile(fused, target=TARGET), tvm.cpu())
    byte, floats = (np.asarray(t.numpy()) for t in machine["main"](tvm.runtime.tensor(x)))
    np.testing.assert_array_equal(quantize(floats, AFTER), byte)


def test_padded_channels_keep_their_boundaries(rng: np.random.Generator) -> None:
    """The kernel has no room for the cells behind the channels."""
    mod, gamma, beta = network((1, 4, 20), rng, before=True, after=True)
    fused = FUSE(mod)
    assert calls(fused) == 3
    x = rng.integers(0, 256, (1, 4, 32)).astype(np.uint8)
    want = quantize(definition(dequantize(x[..., :20], BEFORE), gamma, beta).astype(np.float32), AFTER)
    assert np.abs(run(fused, x)[..., :20].astype(np.int32) - want).max() <= 1


def test_what_is_left_alone(rng: np.random.Generator) -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3, 8), "float32"))
    weight = relax.const(np.ones((3, 8), np.float32))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(relax.op.nn.layer_norm(x, weight, weight, [-2, -1]))
        builder.emit_func_output(result)
    mod = builder.get()
    assert "layer_norm" in FUSE(mod)["main"].script() and calls(FUSE(mod)) == 0


def test_input_stays_and_a_second_run_changes_nothing(rng: np.random.Generator) -> None:
    mod, _, _ = network((1, 4, 32), rng, before=True, after=True)
    before = mod.script(show_meta=True)
    once = FUSE(mod)
    assert mod.script(show_meta=True) == before
    assert FUSE(once).same_as(once)
