"""What holds of all operators without weights: rows, few bits, threads, code for ARM."""

from __future__ import annotations

import pytest
import tvm

from mpq_testing.weightless import NO_RANGES, batch, bytes_of, floats_of, quant
from tvm_mpq.kernels import Request, default_kernel, families
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import (
    FP32,
    ActivationWorkload,
    AddWorkload,
    ConcatWorkload,
    ConvertWorkload,
    MultiplyWorkload,
    Pool2dWorkload,
    Precision,
)


def test_all_kinds_are_registered():
    covered = {(f.workload_type.kind, 32 in f.weight_bits) for f in families()}
    kinds = ("pool2d", "add", "multiply", "concat", "activation", "copy", "convert")
    assert covered >= {(kind, is_float) for kind in kinds for is_float in (False, True)}


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_few_bits(rng, bits):
    with batch() as check:
        shape, precision = (2, 4, 3, 20), Precision(bits, bits)
        tensors = quant(bits, 0.4, 1), quant(bits, 0.3, 2)
        a, b = bytes_of(rng, shape, bits), bytes_of(rng, shape, bits)
        for work in (AddWorkload(shape, "relu"), MultiplyWorkload(shape, False)):
            check(work, precision, bits, Operands(tensors, quant(bits, 0.7, 2)), [a, b])
        check(ActivationWorkload(shape, "silu"), precision, bits, Operands(tensors[:1], quant(bits, 0.2, 1)), [a])
        pool = Pool2dWorkload("avg", 2, 4, 3, 20, (2, 2), (1, 1), (0, 0, 0, 0), 3, 2)
        check(pool, precision, bits, Operands(tensors[:1], tensors[1]), [a])


def test_threads_give_the_same(rng):
    """Maps large enough to be split, with an uneven last vector."""
    with batch() as check:
        shape = (1, 57, 59, 33)
        tq, other = quant(8, 0.1, 100), quant(8, 0.07, 3)
        x, y, f = bytes_of(rng, shape), bytes_of(rng, shape), floats_of(rng, shape)
        p8 = Precision(8, 8)
        check(ActivationWorkload(shape, "tanh"), p8, 8, Operands((tq,), other), [x], threads=(2,))
        check(AddWorkload(shape), FP32, 32, NO_RANGES, [f, f], threads=(2,))
        pool = Pool2dWorkload("max", *shape, (3, 3), (1, 1), (1, 1, 1, 1), 57, 59)
        check(pool, p8, 8, Operands((tq,), tq), [x], threads=(2,))
        check(ConcatWorkload(57 * 59, (33, 33)), p8, 8, Operands((tq, other), tq), [v.reshape(-1, 33) for v in (x, y)])
        check(ConvertWorkload(shape, 32, 8, False), p8, 8, Operands((None,), tq), [f], threads=(2,))


def test_arm_code_can_be_made():
    """The generic rows hold nothing that only x86 has."""
    shape = (1, 6, 6, 17)
    works = [
        AddWorkload(shape, "gelu"),
        MultiplyWorkload(shape, False),
        Pool2dWorkload("avg", *shape, (3, 3), (1, 1), (1, 1, 1, 1), 6, 6),
        Pool2dWorkload("max", *shape, (3, 3), (1, 1), (1, 1, 1, 1), 6, 6),
        ConcatWorkload(36, (17, 3)),
        ActivationWorkload(shape, "tanh"),
        ConvertWorkload((1, 6, 6, 3), 32, 8, True),
        ConvertWorkload(shape, 8, 32),
    ]
    functions = {}
    for i, work in enumerate(works):
        request = Request(work, Precision(8, 8), getattr(work, "to_bits", 8), frozenset({"neon"}))
        functions[f"f{i}"] = default_kernel(request).build().with_attr("global_symbol", f"f{i}")
    target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"})
    text = tvm.compile(tvm.IRModule(functions), target=target).mod.inspect_source("s")
    assert "fmla" in text and "fmaf" not in text
