"""What names a kernel: the parameters that its row states, and a version that is a hash of its code."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tvm

from tvm_mpq.kernels.emit import Parameter, function
from tvm_mpq.kernels.registry import Request, default_kernel
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
def test_what_a_row_states_is_what_it_builds(workload, precision, out_bits):
    kernel = default_kernel(Request(workload, precision, out_bits, FEATURES))
    func = kernel.build()
    assert kernel.buffers == tuple((tuple(int(d) for d in p.shape), str(p.dtype)) for p in func.params)


def write(factor: int, llvm: str | None) -> tvm.tirx.PrimFunc:
    with function([Parameter("x", (1,), "int32"), Parameter("out", (1,), "int32")], llvm=llvm) as f:
        f.flat("out")[0] = f.flat("x")[0] * factor
    return f.func


def test_a_version_is_the_code_the_target_and_the_llvm_code(tmp_path: Path) -> None:
    def version(mcpu: str, factor: int, llvm: str | None) -> str:
        kernel: Any = SimpleNamespace(build=lambda: write(factor, llvm), buffers=())
        return KernelStore(tmp_path, {"kind": "llvm", "mcpu": mcpu}).source(kernel).version

    first = version("znver4", 2, "; a")
    assert version("znver4", 2, "; a") == first
    others = version("haswell", 2, "; a"), version("znver4", 3, "; a"), version("znver4", 2, "; b")
    assert len({first, *others, version("znver4", 2, None)}) == 5
