"""Concatenation equals numerics.reference, compiled for AVX2 and for this CPU."""

from __future__ import annotations

import tvm

from mpq_testing.weightless import NATIVE, NO_RANGES, batch, bytes_of, call, floats_of, quant
from tvm_mpq.kernels import Request, default_kernel
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import pad_channels
from tvm_mpq.schema import FP32, ConcatWorkload, Precision
from tvm_mpq.targets import to_tvm


def test_concat(rng):
    with batch() as check:
        for channels in ((1, 3), (17, 15), (16, 32), (3, 7, 33), (64, 64), (1, 1, 1, 1), (5,)):
            work = ConcatWorkload(6, channels)
            tensors = tuple(quant(8, 0.01 * (i + 1), 60 * i) for i in range(len(channels)))
            inputs = [bytes_of(rng, (6, c)) for c in channels]
            check(work, Precision(8, 8), 8, Operands(tensors, quant(8, 0.017, 100)), inputs)
            check(work, FP32, 32, NO_RANGES, [floats_of(rng, (6, c)) for c in channels])


def test_concat_padding_is_deterministic(rng):
    work = ConcatWorkload(3, (3, 2))
    request = Request(work, Precision(8, 8), 8, frozenset())
    operands = Operands((quant(8, 0.1, 1), quant(8, 0.1, 1)), quant(8, 0.1, 42))
    inputs = [pad_channels(bytes_of(rng, (3, c))) for c in (3, 2)]
    kernel = default_kernel(request)
    func = kernel.build()
    module = tvm.compile(tvm.IRModule({"main": func}), target=to_tvm(NATIVE))
    got = call(module["main"], func, [*inputs, *kernel.constants(operands)])
    assert (got[:, 5:] == 42).all()
