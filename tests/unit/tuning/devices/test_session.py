"""Sessions: right results, every crash and hang an error in time, and nothing left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_mpq import scratch
from tvm_mpq.errors import DeviceLostError, InvalidValueError, MeasurementError, MissingFileError
from tvm_mpq.tuning.devices import shared_files
from tvm_mpq.tuning.devices.local_session import LocalSession
from tvm_mpq.tuning.devices.session import RpcSession
from tvm_mpq.tuning.devices.session_base import Session

A = np.arange(64, dtype=np.float32)


def run(session, library, name, **options):
    module = session.upload_module(library)
    x, out = session.array(A), session.array(np.zeros(64, np.float32))
    session.call(module, name, x, out, **options)
    return session.fetch(out)


def gone(pid: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_runs_code_in_another_process(session, library):
    assert session.pid != os.getpid()
    np.testing.assert_array_equal(run(session, library, "double"), A * 2)


@pytest.mark.parametrize("shape", [(), (3,), (5, 0), (1, 3, 64, 64)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64", "bool"])
def test_arrays_arrive_and_return_as_they_were(session, shape, dtype):
    values = np.asarray(np.random.default_rng(1).integers(0, 2, shape), dtype)
    there = session.array(values)
    np.testing.assert_array_equal(session.fetch(there), values, strict=True)
    turned = values.T  # not dense as NumPy holds it
    np.testing.assert_array_equal(session.fetch(session.array(turned)), turned, strict=True)


def test_one_array_does_not_overwrite_another(session):
    first, second = (session.array(np.full(5000, value, np.float32)) for value in (1.0, 2.0))
    assert (session.fetch(first) == 1).all()
    assert (session.fetch(second) == 2).all()


def test_large_arrays_go_by_files_and_without_room_by_the_socket(session, monkeypatch):
    large = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    used = []
    monkeypatch.setattr(shared_files, "path_in", lambda folder: used.append(folder) or Path(folder) / "array.bin")
    np.testing.assert_array_equal(session.fetch(session.array(large)), large)
    assert len(used) == 2
    monkeypatch.setattr(shared_files, "path_in", lambda folder: Path(folder) / "no such folder" / "array.bin")
    np.testing.assert_array_equal(session.fetch(session.array(large)), large)


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """Of a float matrix and a single integer: the matrix turned, the integer added to it, and the integer."""

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    n = relax.Var("n", relax.TensorType((), "int64"))
    with builder.function("main", [x, n]):
        turned = builder.emit(relax.op.permute_dims(x))
        added = builder.emit(relax.op.add(x, relax.op.astype(n, "float32")))
        builder.emit_func_output(relax.Tuple([turned, added, n]))
    path = tmp_path_factory.mktemp("network") / "net.so"
    relax.build(builder.get(), tvm.target.Target({"kind": "llvm"})).export_library(str(path))
    return path


def test_a_network_runs_in_one_call_as_in_many(session, network, monkeypatch):
    machine = relax.VirtualMachine(session.upload_module(network), session.device)
    x = np.arange(6, dtype=np.float32).reshape(3, 2).T  # not dense as NumPy holds it
    wanted = [x.T, x + 7, np.array(7)]
    for found in (
        session.run_network(machine, [x, np.array(7)]),
        Session.run_network(session, machine, [x, np.array(7)]),
    ):
        for value, right in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(value, right.astype(value.dtype), strict=True)
    monkeypatch.setattr(Session, "run_network", lambda *_: "the long way")
    assert session.run_network(machine, [x, np.array(8)])[2] == 8
    monkeypatch.setattr(shared_files, "path_in", lambda folder: Path(folder) / "no such folder" / "array.bin")
    assert session.run_network(machine, [x, np.array(8)]) == "the long way"


def test_a_network_that_refuses_its_inputs_says_why_and_leaves_the_session(session, network):
    machine = relax.VirtualMachine(session.upload_module(network), session.device)
    with pytest.raises(MeasurementError) as caught:
        session.run_network(machine, [np.zeros((3, 3), np.float32), np.array(7)])
    assert not isinstance(caught.value, DeviceLostError) and "\n" not in str(caught.value)
    assert session.run_network(machine, [np.zeros((2, 3), np.float32), np.array(7)])[2] == 7


def test_threads_and_cores_are_the_child_s():
    cores = sorted(os.sched_getaffinity(0))
    with LocalSession(threads=1, cores=cores[:1]) as session:
        assert os.sched_getaffinity(session.pid) == set(cores[:1])
        assert f"TVM_NUM_THREADS={session.threads}\0" in Path(f"/proc/{session.pid}/environ").read_text()
    assert sorted(os.sched_getaffinity(0)) == cores
    with pytest.raises(InvalidValueError, match="cores must be among"):
        LocalSession(cores=[4096])
    with pytest.raises(InvalidValueError, match="threads must be 1 or more"):
        LocalSession(threads=0)


def test_times_grow_with_the_work(session, library):
    module = session.upload_module(library)
    args = (session.array(A * 0), session.array(A))
    timers = {name: session.timer(module, name, 20) for name in ("short", "long")}
    taken = [{name: run(*args) for name, run in timers.items()} for _ in range(7)]
    short, long = ([us for times in taken for us in times[name]] for name in timers)
    assert len(short) == len(long) == 7
    assert 1.5 < min(long) / min(short) < 2.5
    assert 1 < min(short) < 1000  # 10,000 dependent steps, in microseconds


def test_a_mistaken_call_does_not_end_the_session(session, library):
    module = session.upload_module(library)
    x = session.array(A)
    for name, args in (("double", (x,)), ("nothing", (x, x)), ("double", (x, session.array(A[:32])))):
        with pytest.raises(MeasurementError) as caught:
            session.call(module, name, *args)
        assert not isinstance(caught.value, DeviceLostError)
        assert "\n" not in str(caught.value)
    with pytest.raises(MissingFileError):
        session.upload_module(library.with_name("none.so"))
    np.testing.assert_array_equal(run(session, library, "double"), A * 2)


def test_crash_is_named_and_survived(library):
    with LocalSession() as session:
        first = session.pid
        with pytest.raises(DeviceLostError, match="lost during call of 'crash': the process was ended by SIGSEGV"):
            run(session, library, "crash")
        with pytest.raises(DeviceLostError, match=r"restart\(\) opens it again"):
            run(session, library, "double")
        session.restart()
        assert session.pid != first
        np.testing.assert_array_equal(run(session, library, "double"), A * 2)
        assert gone(first)


def test_a_death_while_an_array_returns_is_named():
    with LocalSession() as session:
        tensor = session.array(np.zeros(shared_files.LEAST_BYTES, np.uint8))
        os.kill(session.pid, signal.SIGKILL)
        with pytest.raises(DeviceLostError, match="SIGKILL"):
            session.fetch(tensor)


def test_hang_ends_at_the_deadline(library):
    with LocalSession() as session:
        start = time.monotonic()
        with pytest.raises(DeviceLostError, match=r"no answer within 0.5 s to call of 'hang'"):
            run(session, library, "hang", timeout_sec=0.5)
        assert time.monotonic() - start < 2.0
        session.restart()
        np.testing.assert_array_equal(run(session, library, "double"), A * 2)


def test_close_leaves_neither_process_nor_folder(library, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_own", None)
    session = LocalSession()
    run(session, library, "double")
    pid = session.pid
    of_the_process = scratch.process_folder()
    assert list(of_the_process.glob("*/rpc"))
    assert not list(of_the_process.glob("*/rpc/*"))  # a loaded library's file is deleted
    session.close()
    session.close()
    assert gone(pid, 0.1)
    assert list(tmp_path.iterdir()) == [of_the_process] and os.listdir(of_the_process) == [scratch.LOCK]


PARENT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
sys.modules["torch"] = None  # TVM would import it, for seconds
import numpy as np
from tvm_mpq.tuning.devices import shared_files
from tvm_mpq.tuning.devices.local_session import LocalSession
session = LocalSession()
module = session.upload_module(sys.argv[1])
x = session.array(np.zeros(64, "float32"))
print(session.pid, flush=True)
try:
    session.call(module, "hang", x, x)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_parent_is_ended(library, tmp_path, number):
    """Even in the middle of a kernel that does not end."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", PARENT, str(library)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path)
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.send_signal(number)
    start = time.monotonic()
    out, _ = parent.communicate(timeout=30)
    assert time.monotonic() - start < 15.0  # not when the kernel ends, and so that a busy machine makes no difference
    assert gone(child)
    left = [path.name for path in tmp_path.glob(f"{scratch.PREFIX}*/*")]
    assert left == ([scratch.LOCK] if number == signal.SIGKILL else [])  # the next process removes it
    if number == signal.SIGINT:
        assert out.strip() == "interrupted"


def test_relax_machine_runs_in_the_session(session, primfunc, tmp_path):
    builder, kind = relax.BlockBuilder(), relax.TensorType((64,), "float32")
    kernel = builder.add_func(primfunc("double"), "double")
    x = relax.Var("x", kind)
    with builder.function("main", [x]):
        twice = builder.emit(relax.call_tir(kernel, (builder.emit(relax.call_tir(kernel, (x,), kind)),), kind))
        builder.emit_func_output(twice)
    tvm.compile(builder.get(), target=tvm.target.Target({"kind": "llvm"})).export_library(str(tmp_path / "net.so"))
    machine = relax.VirtualMachine(session.upload_module(tmp_path / "net.so"), session.device)
    machine.set_input("main", session.array(A))
    machine.invoke_stateful("main")
    np.testing.assert_array_equal(session.fetch(machine.get_outputs("main")), A * 4)


SERVER = """
import sys, time
sys.modules["torch"] = None
from tvm.rpc.server import PopenRPCServerState
print(PopenRPCServerState("127.0.0.1", 19190, 19390, key="board", silent=True).port, flush=True)
time.sleep(600)
"""


@pytest.fixture
def server_port():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", SERVER], text=True, start_new_session=True, **pipes) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_stock_rpc_server(server_port, library):
    with pytest.raises(DeviceLostError, match=r"cannot connect to wrong at 127.0.0.1"):
        RpcSession("127.0.0.1", server_port, "wrong", timeout_sec=5)
    with pytest.raises(InvalidValueError, match="offers at most"):
        RpcSession("127.0.0.1", server_port, "board", threads=999, timeout_sec=5)
    with RpcSession("127.0.0.1", server_port, "board", timeout_sec=5) as session:
        np.testing.assert_array_equal(run(session, library, "double"), A * 2)
        held = session.array(A)
        session.restart()  # although an array of the old connection is still held
        np.testing.assert_array_equal(run(session, library, "double"), A * 2)
        with pytest.raises(DeviceLostError, match=r"no answer within 0.5 s to call of 'hang'"):
            run(session, library, "hang", timeout_sec=0.5)
        del held
    with pytest.raises(DeviceLostError, match=r"did not accept a session within 0.5 s"):  # the kernel still runs there
        RpcSession("127.0.0.1", server_port, "board", timeout_sec=0.5)


def test_nobody_there():
    with pytest.raises(DeviceLostError, match=r"cannot connect to the device at 127.0.0.1:1: "):
        RpcSession("127.0.0.1", 1, timeout_sec=5)
    with pytest.raises(InvalidValueError, match="port must be in"):
        RpcSession("127.0.0.1", 0)
    with pytest.raises(InvalidValueError, match="a tracker needs the key"):
        RpcSession("127.0.0.1", 9190, tracker=True)
