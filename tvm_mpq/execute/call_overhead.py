"""What the Relax virtual machine adds to each kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tvm
from tvm import relax
from tvm.support import cc

from tvm_mpq import scratch
from tvm_mpq.execute.network import compile_network
from tvm_mpq.tuning.devices.session_base import Session
from tvm_mpq.tuning.measure.kernels import MeasureSettings
from tvm_mpq.tuning.measure.networks import NetworkJob, measure_networks

_TRIVIAL = """
# from tvm.script import tirx as T
@T.prim_func(s_tir=True)
def trivial(A: T.Buffer((16,), "float32"), O: T.Buffer((16,), "float32")):
    T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
    for i in T.vectorized(16):
        O[i] = A[i]
"""

_FEW, _MANY = 1, 65


def call_overhead_us(
    session: Session,
    settings: MeasureSettings | None = None,
    *,
    target: tvm.target.Target | None = None,
    linker: str | None = None,
    sentinel: Path | None = None,
) -> float:
    """Microseconds that one `call_tir` costs in the virtual machine beside the kernel's own work.

    The slope between a network of 1 and of 65 calls of a kernel that copies 64 bytes, so that what a run costs once is
    not in it. For a remote session give target, linker and sentinel as for its kernels.
    """
    chosen = tvm.target.Target({"kind": "llvm"}) if target is None else target
    with scratch.folder() as folder:
        path = Path(folder) / "calls.so"
        fcompile = cc.cross_compiler(linker) if linker is not None else None
        compile_network(chains(), chosen).export_library(str(path), fcompile=fcompile)
        value = [np.ones(16, np.float32)]
        jobs = [NetworkJob(path, value, f"calls_{count}") for count in (_FEW, _MANY)]
        few, many = measure_networks(session, jobs, settings, sentinel=sentinel)
    return max(0.0, (many.median_us - few.median_us) / (_MANY - _FEW))


def chains() -> tvm.IRModule:
    """Functions calls_1 and calls_65: as many calls of the trivial kernel, each on the result of the one before."""
    builder = relax.BlockBuilder()
    kind = relax.TensorType((16,), "float32")
    kernel = builder.add_func(tvm.script.from_source(_TRIVIAL), "trivial")
    for count in (_FEW, _MANY):
        value = start = relax.Var("x", kind)
        with builder.function(f"calls_{count}", [start]):
            for _ in range(count):
                value = builder.emit(relax.call_tir(kernel, (value,), kind))
            builder.emit_func_output(value)
    return builder.get()
