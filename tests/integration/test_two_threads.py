"""A user's own module, compiled with passes and with the pipeline for two threads, computes what one thread does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tvm
from tvm import relax

import tvm_mpq as mpq
from tvm_mpq.passes import Annotate, Normalize, Realize

SAMPLE = np.random.default_rng(1).normal(size=(1, 16, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def own() -> tvm.IRModule:
    """Made with Relax itself, not by a frontend of ours: two convolutions wide enough to be shared among threads."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> relax.Expr:
        return relax.const((rng.normal(size=shape) / 8).astype(np.float32))

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 16, 12, 12), "float32"))
    with builder.function("main", [x], attrs={"num_input": 1}):
        with builder.dataflow():
            y = builder.emit(relax.op.nn.relu(relax.op.nn.conv2d(x, weight(64, 16, 3, 3), padding=(1, 1))))
            y = builder.emit_output(relax.op.nn.conv2d(y, weight(32, 64, 3, 3)))
        builder.emit_func_output(y)
    return builder.get()


@pytest.fixture(scope="module")
def folders(own: tvm.IRModule, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Threads -> a folder with an 8 bit plan for so many; ranges are the same."""
    made = {}
    db = tmp_path_factory.mktemp("db") / "latency.db"
    for threads in (1, 2):
        made[threads] = tmp_path_factory.mktemp(f"threads{threads}")
        given = {"data": SAMPLE, "rounding": "nearest", "db": db, "verify_import": False}
        mpq.build(own, uniform="w8a8", threads=threads, **given).save(made[threads])
    return made


def outputs(library: Path) -> npt.NDArray[Any]:
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    results = [machine["main"](tvm.runtime.tensor(SAMPLE)).numpy() for _ in range(20)]
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0], "threads disturb each other")
    return results[0]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this process has a single core")
@pytest.mark.parametrize("by", ["passes", "pipeline"])
def test_two_threads_compute_what_one_does(
    by: str, own: tvm.IRModule, folders: dict[int, Path], tmp_path: Path
) -> None:
    before = own.script()
    found = {}
    for threads, folder in folders.items():
        plan = mpq.Plan.load(folder / "plan.json")
        assert plan.threads == threads and set(plan.operators.values()) == {"w8a8"}
        target = plan.tvm_target()
        if by == "passes":
            passes = tvm.transform.Sequential([Normalize(), Annotate(target=target), Realize(plan)])
            realized = passes(own)
            parallel = "T.parallel(" in realized.script()
            assert parallel == (threads > 1), "kernels share their work among threads where there are some"
            library = tvm.compile(realized, target=target)
        else:
            pipeline = relax.get_pipeline("tvm_mpq", plan=folder)
            library = tvm.compile(own, target=target, relax_pipeline=pipeline)
        path = tmp_path / f"{threads}.so"
        library.export_library(str(path))
        found[threads] = outputs(path)
    np.testing.assert_array_equal(found[2], found[1])
    np.testing.assert_array_equal(found[1], outputs(folders[1] / "model.so"))
    assert own.script() == before, "the user's module is left alone"
