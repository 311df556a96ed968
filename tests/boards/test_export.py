"""A network exported for 64-bit ARM: its C++ program, cross-compiled, computes under qemu what Python computes here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from mpq_testing.cmake import build_program, need
from mpq_testing.emulated import EmulatedMachine, board_module
from mpq_testing.lab import run_strangers
from mpq_testing.onnx_models import residual
from tvm_mpq.pipeline import Options, build_network, export_folder


def test_an_exported_network_runs_on_64_bit_arm(
    machine: EmulatedMachine, packages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("cmake")
    tools, cache = machine.tools("aarch64"), packages.default_cache()
    monkeypatch.syspath_prepend(str(Path(packages.__file__).parent))  # board.py is a script beside packages.py
    board = board_module("board")
    try:
        with packages.locked(cache):
            compiler = packages.cross_compiler(cache, "aarch64", "g++")
            wheels = board.install_wheels(cache, board.interpreter(board.make_root(cache)))
    except (packages.BoardError, board.BoardError) as e:  # one file, loaded under two names
        pytest.skip(f"TVM's runtime or a compiler for 64-bit ARM cannot be had here: {e}")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{Path(compiler).parent}")

    onnx.save(residual(), str(tmp_path / "residual.onnx"))
    given = {"db": tmp_path / "latency.db", "verify_import": False}
    here = build_network(Options(tmp_path / "residual.onnx", **given), uniform="w8a8")
    here.save(tmp_path / "here")
    options = Options(tmp_path / "residual.onnx", target="cortex-a72", **given)
    build_network(options, uniform=None, plan=tmp_path / "here" / "plan.json").save(tmp_path / "there")
    out = tmp_path / "out"
    report = export_folder(tmp_path / "there", out, runtime=wheels)
    assert (report["architecture"], report["example"]["outputs"]) == ("aarch64", [])
    build_program(out, out / "build", f"-DCMAKE_CXX_COMPILER={compiler}")

    given = np.load(out / report["example"]["inputs"][0])
    np.savez(tmp_path / "in.npz", given)
    library = str(tmp_path / "here" / "model.so")
    job = {"library": library, "inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / "out.npz")}
    np.save(out / "expected.npy", run_strangers([job], tmp_path)[0][0])
    command = [tools.qemu, "-L", str(tools.root), "-cpu", "cortex-a72", "build/run_model", "model.so"]
    command += [*report["example"]["inputs"], "--expect", "expected.npy"]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0 and "equals expected.npy bit for bit" in done.stdout, done.stdout + done.stderr
