"""What these tests share: cross compilers, emulators and a board, fetched when they are not installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from mpq_testing.emulated import BOARD, BOARD_KEY, EmulatedMachine, Tools, board_module
from mpq_testing.rpc import rpc_tracker


@pytest.fixture(scope="session")
def packages() -> ModuleType:
    return board_module("packages")


@pytest.fixture(scope="session")
def machine(packages: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> EmulatedMachine:
    cache = packages.default_cache()

    def tools(architecture: str) -> Tools:
        try:
            with packages.locked(cache):
                gcc, qemu = packages.cross_compiler(cache, architecture), packages.emulator(cache, architecture)
        except packages.BoardError as e:
            pytest.skip(f"kernels for {architecture} cannot be run here: {e}")
        return Tools(gcc, qemu, packages.libraries_root(cache, architecture))

    return EmulatedMachine(tools, tmp_path_factory.mktemp("boards"))


@pytest.fixture(scope="session")
def tracker_port() -> Iterator[int]:
    """A tracker that knows one emulated board."""
    pytest.importorskip("tornado", reason="TVM's tracker needs tornado (extra `rpc`)")
    command = [sys.executable, str(BOARD / "board.py")]
    made = subprocess.run([*command, "--prepare-only"], capture_output=True, text=True, check=False, timeout=900)
    if made.returncode:
        pytest.skip(f"the emulated board cannot be made here: {made.stderr.strip().splitlines()[-1]}")
    with rpc_tracker() as tracker:
        options = [f"--tracker=127.0.0.1:{tracker.port}", f"--key={BOARD_KEY}", "--port=19590", "--cpu=cortex-a72"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen([*command, *options], text=True, start_new_session=True, **pipes) as board:
            try:
                assert board.stdout is not None and board.stderr is not None
                line = board.stdout.readline()
                assert line.startswith("ready "), board.stderr.read()
                yield tracker.port
            finally:
                os.killpg(board.pid, signal.SIGKILL)
