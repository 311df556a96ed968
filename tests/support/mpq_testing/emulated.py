"""Kernels for 64-bit ARM, run here under qemu by a small C program without TVM."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm.support import cc

from tvm_mpq.kernels.registry import Kernel, buffers
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate, pad_channels, unpad
from tvm_mpq.targets import resolve, to_tvm

Array = npt.NDArray[Any]

BOARD = Path(__file__).parents[3] / "examples" / "arm_board"
RUNNER = Path(__file__).with_name("kernel_runner.c")

QEMU_CPU = {"cortex-a55": "cortex-a76"}
"""What qemu 7 imitates instead of a core it does not know: one with the same features."""

_CODES = {"i": 0, "u": 1, "f": 2}  # DLPack's kinds of numbers
_ALIGNMENT = 64


def board_module(name: str) -> ModuleType:
    """A module of examples/arm_board, which is no package."""
    spec = importlib.util.spec_from_file_location(f"arm_board_{name}", BOARD / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Case:
    """One kernel with operands, logical inputs and the output that `numerics` defines."""

    kernel: Kernel
    operands: Operands
    inputs: tuple[Array, ...]
    expected: Array

    @classmethod
    def of(cls, kernel: Kernel, operands: Operands, inputs: Sequence[Array]) -> Case:
        request = kernel.request
        with np.errstate(all="ignore"):
            expected = evaluate(request.workload, request.precision, request.out_bits, operands, list(inputs))
        return cls(kernel, operands, tuple(inputs), expected)

    def arguments(self) -> list[Array]:
        """All arrays of a call; what cells behind the last channel hold must not matter, so they hold anything."""
        stored = [pad_channels(x, fill=171) if x.dtype == np.uint8 else x for x in self.inputs]
        kinds = buffers(self.kernel.build())
        arrays = [*stored, *self.kernel.constants(self.operands), np.zeros(*kinds[-1])]
        return [np.ascontiguousarray(a.reshape(shape)) for a, (shape, _) in zip(arrays, kinds, strict=True)]

    def logical(self, found: Array) -> Array:
        """The stored output without the cells behind the last channel."""
        if self.expected.dtype != np.uint8:
            return found.reshape(self.expected.shape)
        channels = self.expected.shape[-1]
        return unpad(found.reshape(*self.expected.shape[:-1], found.shape[-1]), channels)


class EmulatedMachine:
    """Compiles kernels for an ARM core and runs them under an emulator that has no more features than that core.

    gcc, qemu: programs; root: folder of the C library; folder: for what is built.
    """

    def __init__(self, gcc: str, qemu: str, root: Path, folder: Path) -> None:
        self.gcc, self.folder = gcc, folder
        self._qemu = [qemu, "-L", str(root)]
        self._runner = folder / "kernel_runner"
        command = [gcc, "-O1", "-rdynamic", str(RUNNER), "-o", str(self._runner), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        self._count = 0

    def compile(self, kernels: Sequence[Kernel], core: str) -> tuple[Path, list[str]]:
        """A shared library and the functions' names, in the order of `kernels`."""
        names: dict[tuple[str, str, str, int], str] = {}
        functions: dict[str, tvm.tirx.PrimFunc] = {}
        out = []
        for kernel in kernels:
            key = (*kernel.key, kernel.request.threads)
            if key not in names:
                names[key] = f"k{len(names)}"
                functions[names[key]] = kernel.build().with_attr("global_symbol", names[key])
            out.append(names[key])
        self._count += 1
        path = self.folder / f"kernels{self._count}.so"
        compiled = tvm.compile(tvm.IRModule(functions), target=to_tvm(resolve(core)))
        compiled.export_library(str(path), fcompile=cc.cross_compiler(self.gcc))
        return path, out

    def run(self, library: Path, calls: Sequence[tuple[str, Sequence[Array]]], core: str) -> list[list[Array]]:
        """Call functions of a library; all arguments of each call as it left them."""
        lines, parts, offset = [], [], 0
        for name, arrays in calls:
            lines.append(f"kernel {name} {len(arrays)}")
            for a in arrays:
                kind = f"{_CODES[a.dtype.kind]} {8 * a.itemsize}"
                lines.append(f"{kind} {offset} {a.nbytes} {a.ndim} {' '.join(map(str, a.shape))}")
                parts.append(a.tobytes() + bytes(-a.nbytes % _ALIGNMENT))
                offset += len(parts[-1])
        job, data = self.folder / "job.txt", self.folder / "data.bin"
        job.write_text("\n".join(lines) + "\n")
        data.write_bytes(b"".join(parts))
        command = [*self._qemu, "-cpu", QEMU_CPU.get(core, core), str(self._runner), str(library), str(job), str(data)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{library.name} on {core}: code {done.returncode}, {done.stderr.strip()[-400:]}"
        blob, offset = data.read_bytes(), 0
        results = []
        for _, arrays in calls:
            results.append([])
            for a in arrays:
                results[-1].append(np.frombuffer(blob, a.dtype, a.size, offset).reshape(a.shape))
                offset += a.nbytes + -a.nbytes % _ALIGNMENT
        return results

    def check(self, cases: Sequence[Case], core: str, tolerance: float = 0.0) -> None:
        """Compile and run all cases; integers equal the definition, floats within `tolerance` of the largest."""
        library, names = self.compile([case.kernel for case in cases], core)
        calls = [(name, case.arguments()) for name, case in zip(names, cases, strict=True)]
        for case, (_, given), left in zip(cases, calls, self.run(library, calls, core), strict=True):
            label = f"{case.kernel.key} on {core}"
            for before, after in zip(given[:-1], left[:-1], strict=True):
                np.testing.assert_array_equal(before, after, err_msg=f"{label} changed an input")
            found = case.logical(left[-1])
            if case.expected.dtype == np.uint8 or tolerance == 0:
                np.testing.assert_array_equal(found, case.expected, err_msg=label)
            else:
                atol = tolerance * max(float(np.abs(case.expected).max(initial=0)), 1e-6)
                np.testing.assert_allclose(found, case.expected, rtol=0, atol=atol, err_msg=label)
