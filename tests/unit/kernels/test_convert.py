"""Boundaries between formats equal numerics.reference, compiled for AVX2 and for this CPU."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from mpq_testing.slowly import SLOW
from mpq_testing.weightless import NO_RANGES, batch, bytes_of, call, floats_of, quant, stored
from tvm_mpq.kernels import Request, default_kernel
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import FP32, ConvertWorkload, Precision
from tvm_mpq.targets import features, local_row, resolve, to_tvm

SHAPES = [(1, 5, 7, 3), (2, 6, 5, 4), (1, 4, 4, 1), (2, 3, 3, 2), (1, 1, 1, 10), (2, 5, 7, 17), (3, 33), (2, 4, 48)]


def extreme_floats(rng, shape, tq):
    """Halves of a step, values far outside, infinities, and NaN."""
    x = (rng.integers(-600, 600, shape) * np.float32(0.5) * np.float32(tq.scale)).astype(np.float32)
    special = np.float32([np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-40, -0.0])
    return np.where(rng.random(shape) < 0.1, rng.choice(special, shape), x).astype(np.float32)


@pytest.mark.parametrize("channels_first", [False, True])
def test_convert(rng, channels_first):
    with batch() as check:
        for i, shape in enumerate(s for s in SHAPES if len(s) > 2 or not channels_first):
            bits, scale = ((8, 0.1), (4, 0.75), (2, 1.0))[i % 3]
            tq = quant(bits, scale, 100)
            floats, others = extreme_floats(rng, shape, tq), floats_of(rng, shape)
            if channels_first:
                floats, others = np.moveaxis(floats, -1, 1), np.moveaxis(others, -1, 1)
            precision, integers = Precision(bits, bits), bytes_of(rng, shape, bits)
            quantize, back = (
                ConvertWorkload(shape, 32, bits, channels_first),
                ConvertWorkload(shape, bits, 32, channels_first),
            )
            check(quantize, precision, bits, Operands((None,), tq), [floats])
            check(back, precision, 32, Operands((tq,), None), [integers])
            check(ConvertWorkload(shape, 32, 32, channels_first), FP32, 32, NO_RANGES, [others])


CHANNELS_FIRST = [
    *[(2, 5, 7, channels) for channels in (1, 5, 15)],
    *[(1, height, 1, 21) for height in (2, 5, 9)],
    (2, 61, 37, 17),  # enough for two threads
]
MORE = [
    *[(2, 5, 7, channels) for channels in (3, 7, 33)],
    *[(1, height, 1, 21) for height in (3, 8, 15)],
    (1, 2, 2, 100),
]


@pytest.mark.parametrize("shapes", [CHANNELS_FIRST, pytest.param(MORE, marks=SLOW)], ids=["some", "more"])
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_channels_first(rng, lanes, shapes):
    """Odd numbers of channels and positions, by vectors of every width; what pads the channels is the zero point."""
    widths = {4: frozenset(), 8: frozenset({"avx2"}), 16: frozenset({"avx2", "avx512f"})}[lanes]
    tq, functions, cases = quant(8, 0.1, 100), {}, []
    for shape in shapes:
        floats, integers = floats_of(rng, shape), bytes_of(rng, shape)
        planes = np.ascontiguousarray(np.moveaxis(floats, -1, 1))
        for from_bits, to_bits, data in ((32, 8, planes), (8, 32, integers), (32, 32, planes)):
            precision = FP32 if from_bits == to_bits else Precision(8, 8)
            work = ConvertWorkload(shape, from_bits, to_bits, channels_first=True)
            operands = Operands((tq if from_bits == 8 else None,), tq if to_bits == 8 else None)
            expected = evaluate(work, precision, to_bits, operands, [data])
            kernel = default_kernel(Request(work, precision, to_bits, widths, threads=2))
            name = f"f{len(functions)}"
            functions[name] = kernel.build().with_attr("global_symbol", name)
            cases.append((name, [*stored([data]), *kernel.constants(operands)], expected, work))
    module = tvm.compile(tvm.IRModule(functions), target=to_tvm(local_row(), cores=2))
    for name, arrays, expected, work in cases:
        got = call(module[name], functions[name], arrays)
        np.testing.assert_array_equal(got[..., : expected.shape[-1]], expected, err_msg=work.key)
        assert (got[..., expected.shape[-1] :] == tq.zero_point).all(), work.key


def test_requantize(rng):
    with batch() as check:
        for i, shape in enumerate(SHAPES):
            bits, to_bits = ((8, 4), (3, 8), (8, 8))[i % 3]
            work = ConvertWorkload(shape, bits, to_bits)
            operands = Operands((quant(bits, 0.3, 50),), quant(to_bits, 0.4, 60))
            for used in {bits, to_bits}:
                check(work, Precision(used, used), to_bits, operands, [bytes_of(rng, shape, bits)])


def test_quantize_divides_truly(rng):
    """Division by a scale whose reciprocal is inexact, over many near-halves."""
    with batch() as check:
        tq = quant(8, 0.1, 0)
        x = np.nextafter(np.arange(1, 512, 2, dtype=np.float32) * np.float32(0.05), np.float32(0))
        check(ConvertWorkload((1, 16, 16), 32, 8), Precision(8, 8), 8, Operands((None,), tq), [x.reshape(1, 16, 16)])


def test_rounding_is_one_instruction():
    """No library call and no scalar code in the quantizing loop."""
    request = Request(ConvertWorkload((1, 56, 56, 64), 32, 8), Precision(8, 8), 8, features(resolve("haswell")))
    func = default_kernel(request).build()
    text = tvm.compile(tvm.IRModule({"main": func}), target=to_tvm(resolve("haswell"))).mod.inspect_source("s")
    assert "vdivps" in text and "nearbyint" not in text and "roundf" not in text
