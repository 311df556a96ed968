"""Kernels as text: what the text says of itself is what parsing finds, and what code does is in its version."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tvm

from tvm_mpq.kernels.emit import Array, function
from tvm_mpq.kernels.registry import Request, default_kernel
from tvm_mpq.kernels.tir import Code, Script
from tvm_mpq.schema import BF16, FP32, W8A8, AddWorkload, Conv2dWorkload, ConvertWorkload, Pool2dWorkload, Precision
from tvm_mpq.targets import features, resolve
from tvm_mpq.tuning.compile.kernel_store import KernelStore

CONV = Conv2dWorkload(1, 9, 9, 19, 33, (3, 3), padding=(1, 1, 1, 1), residual=True)
FEATURES = features(resolve("znver4"))


@pytest.mark.parametrize(
    "workload, precision, out_bits",
    [
        *((CONV, p, 8) for p in (W8A8, Precision(4, 8), Precision(2, 4), Precision(1, 4), Precision(1, 1))),
        (CONV, W8A8, 32),
        (CONV, FP32, 32),
        (CONV, BF16, 32),
        (AddWorkload((1, 9, 9, 19)), W8A8, 8),
        (Pool2dWorkload("avg", 1, 9, 9, 19, (3, 3), (1, 1), (0, 0, 0, 0), 7, 7), W8A8, 8),
        (ConvertWorkload((1, 9, 9, 19), 32, 8), W8A8, 8),
    ],
)
def test_buffers_are_known_without_parsing(workload, precision, out_bits):
    kernel = default_kernel(Request(workload, precision, out_bits, FEATURES))
    func = kernel.build()
    assert kernel.buffers == tuple((tuple(int(d) for d in p.shape), str(p.dtype)) for p in func.params)
    assert gc.isenabled()


def as_text(factor: int, llvm: str | None) -> Script:
    code = Code()
    code.line(f"out[0] = x[0] * {factor}")
    return code.script([("x", (1,), "int32"), ("out", (1,), "int32")], llvm=llvm)


def as_values(factor: int, llvm: str | None) -> tvm.tirx.PrimFunc:
    with function([Array("x", (1,), "int32"), Array("out", (1,), "int32")], llvm=llvm) as f:
        f.flat("out")[0] = f.flat("x")[0] * factor
    return f.func


@pytest.mark.parametrize("write", [as_text, as_values])
def test_a_version_is_the_code_the_target_and_the_llvm_code(tmp_path: Path, write) -> None:
    def version(mcpu: str, factor: int, llvm: str | None) -> str:
        kernel: Any = SimpleNamespace(code=lambda: write(factor, llvm), buffers=())
        return KernelStore(tmp_path, {"kind": "llvm", "mcpu": mcpu}).source(kernel).version

    first = version("znver4", 2, "; a")
    assert version("znver4", 2, "; a") == first
    others = version("haswell", 2, "; a"), version("znver4", 3, "; a"), version("znver4", 2, "; b")
    assert len({first, *others, version("znver4", 2, None)}) == 5


def test_a_script_that_cannot_be_parsed_leaves_collection_on() -> None:
    code = Code()
    code.line("O[0] = nothing")
    with pytest.raises(tvm.error.DiagnosticError):
        code.script([("O", (1,), "float32")]).parse()
    assert gc.isenabled()
