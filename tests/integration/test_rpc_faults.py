"""What goes wrong with boards and disks: one line that says it, nothing lost, and the same command goes on.

Servers are real ones in processes of their own, on loopback.

In one file: the servers and proxies that break are shared by all faults.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mpq_testing import onnx_models
from mpq_testing.rpc import Server, cable, listener, rpc_server, rpc_tracker
from tvm_mpq import cli
from tvm_mpq.costs.measured import fill
from tvm_mpq.costs.profiler import KernelProfiler, latency_key
from tvm_mpq.errors import DeviceLostError, OutputError
from tvm_mpq.kernels.registry import Request, default_kernel
from tvm_mpq.schema import AddWorkload, DeviceIdentity, FailureKind, LatencyKey, Precision
from tvm_mpq.targets import TargetRow, device_identity, local_row, to_tvm, to_tvm_attrs
from tvm_mpq.tuning.compile.kernel_store import KernelStore
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.devices import boards as boards_module
from tvm_mpq.tuning.devices import session as session_module
from tvm_mpq.tuning.devices.boards import Boards
from tvm_mpq.tuning.devices.pool import ThisMachine
from tvm_mpq.tuning.devices.sentinel import FUNCTION, build_sentinel, sentinel_args
from tvm_mpq.tuning.measure import kernels as measure_module
from tvm_mpq.tuning.measure.kernels import KernelJob, MeasureSettings
from tvm_mpq.tuning.measure.on_pool import failed, measure_at

QUICK = MeasureSettings(repeats=5, min_repeat_ms=0.2, max_relative_iqr=1e6, max_drift=1e6, timeout_sec=20)
KEY = LatencyKey("w", "-", 32, "f", "{}", "t")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "CONNECT_TIMEOUT_SEC", 1.0)
    monkeypatch.setattr(boards_module, "PATIENCE_SEC", 0.5)
    monkeypatch.setattr(boards_module, "RETRY_SEC", 0.2)


@pytest.fixture(scope="module")
def library() -> Path:
    """A kernel of ten microseconds or so."""
    return build_sentinel()


def jobs(library: Path, count: int) -> list[KernelJob]:
    return [
        KernelJob(dataclasses.replace(KEY, workload=f"w{i}"), library, FUNCTION, sentinel_args()) for i in range(count)
    ]


def opened(port: int, key: str | None = None, **options: Any) -> Boards:
    boards = Boards("127.0.0.1", port, key, **options)
    boards.build_sentinel(to_tvm(local_row()))
    return boards


def names(records: Any) -> list[str]:
    found = list(records)
    assert all(r.failure is None for r in found), [r.failure for r in found]
    return sorted(r.key.workload for r in found)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused(arguments of the command line) -> its one line; code: 2 for a value that is none."""

    def run(*args: object, code: int = 1) -> str:
        with pytest.raises(SystemExit) as caught:
            cli.main([str(a) for a in args])
        assert caught.value.code == code
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("error: ") and "Traceback" not in "".join(lines)
        return lines[-1]

    return run


Refused = Callable[..., str]


def test_nothing_on_the_port(refused: Refused) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert f"127.0.0.1:{port}" in refused("devices", "--rpc", f"127.0.0.1:{port}")
    assert "tracker" in refused("devices", "--rpc", f"127.0.0.1:{port}", "--key", "k")


def test_no_address(refused: Refused) -> None:
    for text in ("board", "board:", ":9090", "board:0", "board:70000", "a b:1"):
        assert "HOST:PORT" in refused("devices", "--rpc", text, code=2)


def test_garbage_on_the_port(refused: Refused, rng: np.random.Generator) -> None:
    noise = rng.integers(0, 256, 4096, np.uint8).tobytes()
    with listener(lambda connection: connection.sendall(noise)) as port:
        assert f"127.0.0.1:{port}" in refused("devices", "--rpc", f"127.0.0.1:{port}")
        assert f"127.0.0.1:{port}" in refused("devices", "--rpc", f"127.0.0.1:{port}", "--key", "k")


def test_garbage_after_a_trackers_greeting(refused: Refused) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(connection.recv(4))
        connection.recv(100)
        connection.sendall(b"\x08\0\0\0nonsense")

    with listener(serve) as port:
        assert "no sensible answer" in refused("devices", "--rpc", f"127.0.0.1:{port}", "--key", "k")


def test_a_server_that_hangs(refused: Refused) -> None:
    with listener(lambda connection: time.sleep(30)) as port:
        start = time.monotonic()
        assert "did not accept a session within 1 s" in refused("devices", "--rpc", f"127.0.0.1:{port}")
        assert "no answer within 1 s" in refused("devices", "--rpc", f"127.0.0.1:{port}", "--key", "k")
        assert time.monotonic() - start < 10


def test_a_server_that_hangs_in_the_middle(library: Path) -> None:
    """Stopped (SIGSTOP) between two groups; measuring goes on when it runs again."""
    with rpc_server() as server:
        boards = opened(server.port, timeout_sec=1.0, patience_sec=30.0)
        settings = dataclasses.replace(QUICK, group=1, timeout_sec=1.0)
        found = measure_at(boards, jobs(library, 40), settings, device="d")
        assert next(found).failure is None
        children = subprocess.run(["ps", "-o", "pid=", "--sid", str(server.pid)], capture_output=True, text=True)
        pids = [int(pid) for pid in children.stdout.split()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        said: list[str] = []

        def wake(text: str) -> None:
            said.append(text)
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

        boards._say = wake
        assert len(names(found)) == 39
        assert boards.disconnects and all(disconnect.came_back for disconnect in boards.disconnects)
        boards.close()


def test_a_server_that_closes_in_the_middle_of_an_upload(library: Path) -> None:
    with rpc_server() as server:
        with cable(server.port) as wire:
            boards = opened(wire.port)
            work = measure_at(boards, jobs(library, 24), dataclasses.replace(QUICK, group=2), device="d")
            done = [next(work), next(work)]
            wire.cut_after(3000)
            with pytest.raises(DeviceLostError, match=r"no board is left .*what was measured is kept") as caught:
                done.extend(work)
            assert "\n" not in str(caught.value)
            assert [disconnect.came_back for disconnect in boards.disconnects] == [False]
            boards.close()
            wire.cut_after(None)
            again = opened(wire.port)
            left = [job for job in jobs(library, 24) if job.key not in {record.key for record in done}]
            assert 0 < len(left) < 23
            assert len(names(measure_at(again, left, QUICK, device="d"))) == len(left)
            again.close()


def test_a_lost_board_that_comes_back_costs_nothing(library: Path) -> None:
    said: list[str] = []
    with rpc_server() as server:
        with cable(server.port) as wire:
            boards = opened(wire.port, patience_sec=20.0, say=said.append)
            work = measure_at(boards, jobs(library, 24), dataclasses.replace(QUICK, group=2), device="d")
            done = [next(work)]
            wire.cut_after(3000)

            def mend(text: str) -> None:
                said.append(text)
                wire.cut_after(None)

            boards._say = mend
            assert len(names([*done, *work])) == 24
            assert any("lost the device at" in text for text in said)
            assert [disconnect.came_back for disconnect in boards.disconnects] == [True]
            boards.close()


@pytest.fixture
def three() -> Iterator[tuple[int, list[Server]]]:
    pytest.importorskip("tornado", reason="TVM's tracker needs tornado (extra `rpc`)")
    with rpc_tracker() as tracker, rpc_server("k", tracker.port) as a, rpc_server("k", tracker.port) as b:
        with rpc_server("k", tracker.port) as c:
            time.sleep(0.5)  # each reports to the tracker after it has said its port
            yield tracker.port, [a, b, c]


@pytest.mark.slow
def test_one_of_three_boards_is_killed(three: tuple[int, list[Server]], library: Path) -> None:
    """Of a whole job: test_lost_board.py; of made-up boards: tests/unit/tuning/devices/test_boards.py."""
    port, servers = three
    said: list[str] = []
    boards = opened(port, "k", say=said.append)
    assert boards.width == 3
    work = measure_at(boards, jobs(library, 60), dataclasses.replace(QUICK, group=1), device="d")
    done = [next(work)]
    assert "measuring on 3 boards" in said
    victim = servers[1]
    victim.kill()
    assert len(names([*done, *work])) == 60
    assert [disconnect.board for disconnect in boards.disconnects] == [f"k at 127.0.0.1:{victim.port}"]
    assert any(f"lost k at 127.0.0.1:{victim.port}" in text for text in said)
    boards.close()


def test_an_unknown_key(refused: Refused) -> None:
    pytest.importorskip("tornado", reason="TVM's tracker needs tornado (extra `rpc`)")
    with rpc_tracker() as tracker, rpc_server("k", tracker.port):
        text = refused("optimize", "m.onnx", "--out", "/tmp", "--rpc", f"127.0.0.1:{tracker.port}", "--key", "none")
    assert "no board of key 'none' became free" in text


def test_a_board_of_another_isa(refused: Refused, tmp_path: Path) -> None:
    other = "cortex-a72" if local_row().mcpu != "cortex-a72" else "znver4"
    with rpc_server() as server:
        text = refused("optimize", "m.onnx", "--target", other, "--out", tmp_path, "--rpc", f"127.0.0.1:{server.port}")
    assert f"target {other!r} needs" in text and device_identity(local_row(), 1).cpu_model in text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_disk_is_full(small_disk: Path) -> None:
    records = [
        failed(dataclasses.replace(KEY, workload=f"w{i}"), "d", "1", FailureKind.CRASH, "x" * 500) for i in range(2000)
    ]
    (small_disk / "ballast").write_bytes(b"\0" * 400_000)
    kept = []
    with LatencyDatabase(small_disk / "db") as db:
        with pytest.raises(OutputError, match=r"cannot open or write database .* full") as caught:  # noqa: PT012
            for record in records:
                db.put(record)
                kept.append(record)
        assert "\n" not in str(caught.value)
    assert 10 < len(kept) < 2000
    (small_disk / "ballast").unlink()
    with LatencyDatabase(small_disk / "db") as db:
        assert db.verify() == []
        assert list(db.records()) == kept
        db.put(records[len(kept)])
        assert len(list(db.records())) == len(kept) + 1


def test_the_disk_is_full_when_a_run_writes(small_disk: Path, refused: Refused, tmp_path: Path) -> None:
    onnx.save(onnx_models.ends_in_conv(), str(tmp_path / "m.onnx"))
    LatencyDatabase(small_disk / "db").close()
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "ballast").write_bytes(b"\0" * (free - 8192))
    text = refused("optimize", tmp_path / "m.onnx", "--db", small_disk / "db", "--out", tmp_path / "out")
    assert "No space" in text or "full" in text


class Backwards(datetime):
    """A clock that was set back by a year in the middle of the work."""

    offset = timedelta(0)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(timezone.utc) + cls.offset


def test_the_clock_jumps_backwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was just measured is kept, though the database holds something that calls itself newer."""
    monkeypatch.setattr(measure_module, "datetime", Backwards)
    monkeypatch.setattr(Backwards, "offset", timedelta(0))
    row = local_row()
    store = KernelStore(tmp_path / "kernels", to_tvm_attrs(row, 1))
    device = DeviceIdentity("m", "c", (), 1, 1)
    with LatencyDatabase(tmp_path / "db") as db:
        profiler = KernelProfiler(row.name, device, store, db, ThisMachine(1), QUICK)
        request = _request(row)
        key = latency_key(default_kernel(request), row.name)
        db.put(failed(key, device.key, "an older kernel", FailureKind.CRASH, "crashed"))
        monkeypatch.setattr(Backwards, "offset", timedelta(days=-365))
        assert fill(profiler, [request]).measured == 1
        second = fill(profiler, [request])
        assert (second.measured, second.cached) == (0, 1)


def _request(row: TargetRow) -> Request:
    return Request(AddWorkload((1, 4, 4, 16)), Precision(8, 8), 8, frozenset(row.isa_features), 1)
