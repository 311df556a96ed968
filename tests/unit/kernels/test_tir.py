"""Kernels as text: what the text says of itself is what parsing finds, and what code does is in its version."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tvm

from tvm_mpq.kernels.registry import Kernel, Request, default_kernel
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


def test_a_version_is_the_text_the_target_and_the_llvm_code(tmp_path: Path) -> None:
    def store(mcpu: str) -> KernelStore:
        return KernelStore(tmp_path, {"kind": "llvm", "mcpu": mcpu})

    kernel = default_kernel(Request(CONV, BF16, 32, FEATURES))
    again = Kernel(kernel.request, kernel.family, dict(kernel.knobs))
    version = store("znver4").source(kernel).version
    assert store("znver4").source(again).version == version != store("haswell").source(kernel).version
    script = kernel.code()
    assert isinstance(script, Script) and script.llvm is not None
    for change in ({"text": script.text + "\n"}, {"llvm": script.llvm + "\n"}):
        other = dataclasses.replace(script, **change)
        changed: Any = SimpleNamespace(code=lambda other=other: other, buffers=())
        assert store("znver4").source(changed).version != version


def test_a_script_that_cannot_be_parsed_leaves_collection_on() -> None:
    code = Code()
    code.line("O[0] = nothing")
    with pytest.raises(tvm.error.DiagnosticError):
        code.script([("O", (1,), "float32")]).parse()
    assert gc.isenabled()
