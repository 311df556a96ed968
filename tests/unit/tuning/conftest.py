"""Small PrimFuncs for the tests of this room, and one local session for those that do not break it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tvm

BODIES = {
    "double": "    for i in range(64):\n        O[i] = A[i] * T.float32(2)\n",
    # A chain of dependent multiply-adds: as long as asked, and nothing to optimise away.
    "spin": "    O[0] = T.float32(1)\n    for i in T.serial({count}):\n        O[0] = O[0] * A[0] + A[1]\n",
    "hang": "    O[0] = T.float32(1)\n    for i, j in T.grid(1000, 2147483647):\n        O[0] = O[0] * A[0] + A[1]\n",
    "crash": "    for i in T.serial(1000000):\n        O[i * 2000] = A[0]\n",
    # Ten thousands of statements of which LLVM makes one huge basic block: seconds of compile time.
    "huge": "    for i in T.unroll(40000):\n        O[i % 64] = A[(i * 7) % 64] * O[(i * 3) % 64] + A[i % 64]\n",
    # Names an intrinsic that exists, with operands it does not take: LLVM aborts or refuses.
    "broken": "    O[0] = T.call_llvm_pure_intrin("
    '"float32", T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512"), A[0])\n',
}


def make(body: str, name: str = "f", **values: int) -> tvm.tirx.PrimFunc:
    """A function of float32[64] -> float32[64]."""
    return tvm.script.from_source(
        "# from tvm.script import tirx as T\n@T.prim_func(s_tir=True)\n"
        f'def {name}(A: T.Buffer((64,), "float32"), O: T.Buffer((64,), "float32")):\n'
        '    T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})\n' + BODIES[body].format(**values)
    )


@pytest.fixture(scope="session")
def primfunc() -> Callable[..., Any]:
    return make


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Functions: double, short (about 10 us), long (twice short), crash, hang (an hour)."""
    functions = {
        "double": make("double"),
        "short": make("spin", count=10_000),
        "long": make("spin", count=20_000),
        "crash": make("crash"),
        "hang": make("hang"),
    }
    module = tvm.IRModule({name: f.with_attr("global_symbol", name) for name, f in functions.items()})
    path = tmp_path_factory.mktemp("library") / "functions.so"
    tvm.compile(module, target=tvm.target.Target({"kind": "llvm"})).export_library(str(path))
    return path


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    from tvm_mpq.tuning.devices.local_session import LocalSession

    with LocalSession() as opened:
        yield opened
