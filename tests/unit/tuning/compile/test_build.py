"""Building kernels in workers: right libraries, and every failure only its own kernel's."""

from __future__ import annotations

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
from tvm_mpq.kernels.tir import Code, Script
from tvm_mpq.tuning.compile.build import build_modules, end_workers

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
    calls = []
    found = build_modules(items, TARGET, group_size=3, folder=tmp_path, progress=lambda *a: calls.append(a))
    assert [r.name for r in found] == [name for name, _ in items]
    assert [r.failure for r in found] == [None] * 7
    assert len({r.path for r in found}) == 3
    assert all(works(r.path, r.name) for r in found)
    assert sorted(done for done, _, _ in calls) == list(range(1, 8))
    assert all(r.path.is_relative_to(tmp_path) for r in found)
    assert not list(tmp_path.glob("**/*.json"))
    workers = alive_children()
    assert len(workers) == 2
    build_modules(items, TARGET, folder=tmp_path)
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


def test_scripts_are_parsed_by_the_workers(primfunc):
    def script(value: str) -> Script:
        code = Code()
        with code.block("for i in range(64):"):
            code.line(f"O[i] = {value}")
        return code.script([("A", (64,), "float32"), ("O", (64,), "float32")])

    items = [
        *(("first", script("A[i] * T.float32(2)")), ("wrong", script("A[i] * nothing"))),
        *(("parsed", primfunc("double")), ("last", script("A[i] + A[i]"))),
    ]
    found = {r.name: r for r in build_modules(items, TARGET)}
    assert all(works(found[name].path, name) for name in ("first", "parsed", "last"))
    assert found["wrong"].path is None and "\n" not in found["wrong"].failure


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
    def interrupt(done, total, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_modules([("a", primfunc("double")), ("b", primfunc("double"))], TARGET, progress=interrupt)
    end = time.monotonic() + 5
    while alive_children() and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive_children()


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
    assert build_modules([], TARGET) == []


def test_scratch_folder_goes_away_with_the_process(tmp_path):
    code = (
        "import tvm\nfrom tvm_mpq.tuning.devices.sentinel import build_sentinel\n"
        "path = build_sentinel()\nassert path.exists()\nprint(path)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, check=True, capture_output=True)
    assert not list(tmp_path.glob("tvm-mpq-build-*"))
