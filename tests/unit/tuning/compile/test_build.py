"""Building kernels in workers: right libraries, and every failure only its own kernel's."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tvm

from tvm_mpq import processes as children
from tvm_mpq.errors import InvalidValueError, MissingDependencyError
from tvm_mpq.kernels.registry import Request, default_kernel, kernel_from_json
from tvm_mpq.schema import BF16, FLOAT_BITS, FP32, W8A8, AddWorkload, Conv2dWorkload, Precision
from tvm_mpq.targets import features, resolve
from tvm_mpq.tuning.compile import kernel_store
from tvm_mpq.tuning.compile.build import BuildResult, build_modules, end_workers
from tvm_mpq.tuning.compile.kernel_store import KernelStore

TARGET = tvm.target.Target({"kind": "llvm"})


def alive_children() -> list[int]:
    """Process ids of this process's compile workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == os.getpid() and b"build_worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found)


@pytest.fixture(autouse=True)
def _no_worker_is_left():
    yield
    end_workers()
    assert not alive_children()


def works(path, name) -> bool:
    x, out = tvm.runtime.tensor(np.ones(64, np.float32)), tvm.runtime.tensor(np.zeros(64, np.float32))
    tvm.runtime.load_module(str(path))[name](x, out)
    return bool((out.numpy() == 2).all())


def test_functions_share_libraries_and_work(primfunc, tmp_path):
    items = [(f"kernel{i}", primfunc("double", name=f"other{i}")) for i in range(7)]
    found = list(build_modules(items, TARGET, group_size=3, folder=tmp_path))
    assert sorted(r.name for r in found) == [name for name, _ in items]
    assert [r.failure for r in found] == [None] * 7
    assert len({r.path for r in found}) == 3
    assert all(works(r.path, r.name) for r in found)
    assert all(r.path.is_relative_to(tmp_path) for r in found)
    assert not list(tmp_path.glob("**/*.json"))
    workers = alive_children()
    assert len(workers) == 2
    list(build_modules(items, TARGET, folder=tmp_path))
    assert alive_children() == workers  # the same ones


def test_a_slow_and_a_broken_kernel_cost_only_themselves(primfunc):
    items = [("good1", primfunc("double")), ("huge", primfunc("huge")), ("broken", primfunc("broken"))]
    items.append(("good2", primfunc("double")))
    found = {r.name: r for r in build_modules(items, TARGET, timeout_sec=3.0)}
    assert found["huge"].failure == "compiling took longer than 3 s"
    assert found["broken"].failure is not None
    assert "\n" not in found["broken"].failure
    for name in ("good1", "good2"):
        assert found[name].failure is None
        assert works(found[name].path, name)


def test_kernels_are_built_by_the_workers(primfunc):
    kernel = default_kernel(Request(AddWorkload((1, 1, 1, 64)), FP32, FLOAT_BITS, frozenset()))
    conv = default_kernel(Request(Conv2dWorkload(1, 4, 4, 16, 16, (1, 1)), W8A8, 8, frozenset()))
    wrong = dataclasses.replace(conv, knobs={})  # its builder cannot do without
    items = [("add", kernel), ("wrong", wrong), ("function", primfunc("double")), ("conv", conv)]
    found = {r.name: r for r in build_modules(items, TARGET)}
    assert works(found["function"].path, "function")
    one = tvm.runtime.tensor(np.ones((1, 1, 1, 64), np.float32))
    out = tvm.runtime.tensor(np.zeros((1, 1, 1, 64), np.float32))
    tvm.runtime.load_module(str(found["add"].path))["add"](one, one, out)
    assert (out.numpy() == 2).all() and found["conv"].failure is None
    assert found["wrong"].path is None and "\n" not in found["wrong"].failure


def test_a_kernel_is_the_same_in_another_process():
    for p in (FP32, BF16, W8A8, Precision(4, 8), Precision(2, 4), Precision(1, 1)):
        request = Request(Conv2dWorkload(1, 9, 9, 19, 33, (3, 3)), p, FLOAT_BITS, features(resolve("znver4")), 2)
        kernel = default_kernel(request)
        assert kernel_from_json(json.loads(json.dumps(kernel.to_json()))) == kernel


def test_a_crashed_worker_is_replaced(primfunc, monkeypatch):
    """A worker that dies in the middle of a job, as LLVM's abort() would make it."""
    send = children.Child.send

    def send_and_kill(child, message):
        if "code" in message and "victim" in Path(message["code"]).read_text(encoding="utf-8"):
            child.stop()
        send(child, message)

    monkeypatch.setattr(children.Child, "send", send_and_kill)
    items = [("good1", primfunc("double")), ("victim", primfunc("double")), ("good2", primfunc("double"))]
    found = {r.name: r for r in build_modules(items, TARGET, workers=1)}
    assert found["victim"].failure == "the compiler crashed: the process was ended by SIGKILL"
    assert works(found["good1"].path, "good1")
    assert works(found["good2"].path, "good2")


def test_interrupt_stops_the_workers(primfunc):
    def work(results):
        for _ in results:
            raise KeyboardInterrupt

    items = [("a", primfunc("double")), ("b", primfunc("huge")), ("c", primfunc("huge"))]
    with pytest.raises(KeyboardInterrupt):
        work(build_modules(items, TARGET, group_size=1))
    end = time.monotonic() + 5
    while alive_children() and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive_children()


def test_an_error_of_who_is_told_stops_the_workers_before_their_folder_goes(primfunc, tmp_path, monkeypatch):
    """Also while the error is held, and with it the frames it came through."""
    closed = []

    def results(items, target, *, workers, linker, folder):
        try:
            for name, _ in items:
                yield BuildResult(name, None, "why")
        finally:
            closed.append(Path(folder).exists())

    def tell(done, total, stage):
        raise OverflowError(f"{done} of {total}")

    monkeypatch.setattr(kernel_store, "build_modules", results)
    store = KernelStore(tmp_path, {"kind": "llvm"})
    with pytest.raises(OverflowError, match="1 of 2") as held:
        store.compile([store.source_of(primfunc(name)) for name in ("double", "huge")], tell)
    assert closed == [True] and held.value is not None


def test_arguments_are_checked(primfunc):
    f = primfunc("double")
    for items in ([("a b", f)], [("a", f), ("a", f)], [("ä", f)]):
        with pytest.raises(InvalidValueError, match="unique C identifiers"):
            build_modules(items, TARGET)
    with pytest.raises(InvalidValueError, match="workers must be 1 or more"):
        build_modules([("a", f)], TARGET, workers=0)
    with pytest.raises(InvalidValueError, match="timeout_sec"):
        build_modules([("a", f)], TARGET, timeout_sec=0)
    with pytest.raises(MissingDependencyError, match="no linker"):
        build_modules([("a", f)], TARGET, linker="no-such-linker")
    assert list(build_modules([], TARGET)) == []


def test_scratch_folder_goes_away_with_the_process(tmp_path):
    code = (
        "import sys\nsys.modules['torch'] = None  # TVM would import it, for seconds\n"
        "import tvm\nfrom tvm_mpq.tuning.devices.sentinel import build_sentinel\n"
        "path = build_sentinel()\nassert path.exists()\nprint(path)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, check=True, capture_output=True)
    assert not list(tmp_path.glob("tvm-mpq-build-*"))
