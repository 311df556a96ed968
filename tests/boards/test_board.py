"""The emulated board of examples/arm_board: a kernel is verified and timed there through a tracker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mpq_testing.emulated import BOARD, BOARD_KEY, EmulatedMachine
from tvm_mpq.kernels.registry import Request, default_kernel
from tvm_mpq.schema import W8A8, Conv2dWorkload
from tvm_mpq.targets import features, resolve, to_tvm
from tvm_mpq.tuning.compile.build import build_modules
from tvm_mpq.tuning.devices.sentinel import FUNCTION, build_sentinel, sentinel_args
from tvm_mpq.tuning.devices.session import RpcSession
from tvm_mpq.tuning.measure.verify import verify_kernel


def test_a_kernel_is_verified_and_timed_there(tracker_port: int, machine: EmulatedMachine, tmp_path: Path) -> None:
    row, linker = resolve("cortex-a72"), machine.tools("aarch64").gcc
    workload = Conv2dWorkload(1, 8, 8, 32, 32, (3, 3), (1, 1), (1, 1, 1, 1), activation="relu")
    kernel = default_kernel(Request(workload, W8A8, 8, features(row)))
    assert kernel.family.name.endswith("__neon")
    (built,) = build_modules(
        [("conv", kernel.build())],
        to_tvm(row),
        workers=1,
        linker=linker,
        folder=tmp_path,
        timeout_sec=120,
    )
    assert built.path is not None, built.failure
    with RpcSession("127.0.0.1", tracker_port, BOARD_KEY, tracker=True) as session:
        verify_kernel(session, built.path, "conv", kernel)
        sentinel = session.upload_module(build_sentinel(to_tvm(row), linker=linker))
        tensors = [session.array(a) for a in sentinel_args()]
        times = session.timer(sentinel, FUNCTION, 2, repeat=5)(*tensors)
        assert len(times) == 5 and min(times) > 0


def test_what_cannot_be_had_is_named(packages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = packages.Apt(tmp_path, "arm64")
    monkeypatch.setattr(apt, "_command", ["apt-get", "-q", "-oDir::State::Lists=/nowhere", "-oDir::Cache=/nowhere"])
    with pytest.raises(packages.BoardError, match=r"cannot fetch the Debian packages no-such-thing for arm64: E: "):
        apt.unpack(["no-such-thing"], tmp_path / "root")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(packages.BoardError, match="which Debian and Ubuntu have"):
        packages.Apt(tmp_path, "arm64")
    with pytest.raises(packages.BoardError, match="cannot use the cache folder"), packages.locked(Path("/proc/none")):
        pass


def test_usage(tmp_path: Path) -> None:
    command = [sys.executable, str(BOARD / "board.py"), "--tracker=nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and "--tracker is HOST:PORT (got 'nonsense')" in done.stderr
