"""Kernels for CPUs of other architectures, run here under qemu by a small C program without TVM."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm.support import cc

from tvm_mpq.kernels.registry import Kernel
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate, pad_channels, unpad
from tvm_mpq.targets import cpuinfo, resolve, to_tvm

Array = npt.NDArray[Any]

BOARD = Path(__file__).parents[3] / "examples" / "arm_board"
BOARD_KEY = "emulated-a72"
RUNNER = Path(__file__).with_name("kernel_runner.c")

QEMU_CPU = {
    "cortex-a55": "cortex-a76",
    "neoverse-v1": "max",
    "neoverse-n2": "max",
    "cortex-a710": "max",
    "rv64gc": "sifive-u54",
    "rv64gcv": "rv64,v=true,vext_spec=v1.0,vlen=128",
}
"""What qemu 7 imitates instead of a target that it does not know: a core with the same features."""

_CODES = {"i": 0, "u": 1, "f": 2}  # DLPack's kinds of numbers
_ALIGNMENT = 64


def architecture(core: str) -> str:
    """Of a target, as qemu names it."""
    triple = resolve(core).mtriple
    assert triple is not None
    return cpuinfo.architecture(triple)


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
        kinds = self.kernel.buffers
        arrays = [*stored, *self.kernel.constants(self.operands), np.zeros(*kinds[-1])]
        return [a.reshape(shape).copy() for a, (shape, _) in zip(arrays, kinds, strict=True)]

    def logical(self, found: Array) -> Array:
        """The stored output without the cells behind the last channel."""
        if self.expected.dtype != np.uint8:
            return found.reshape(self.expected.shape)
        channels = self.expected.shape[-1]
        return unpad(found.reshape(*self.expected.shape[:-1], found.shape[-1]), channels)


@dataclass(frozen=True)
class Tools:
    """gcc, qemu: programs for one architecture; root: folder of its C library."""

    gcc: str
    qemu: str
    root: Path


class EmulatedMachine:
    """Compiles kernels for a target's core and runs them under an emulator that has no more features than that core.

    tools: of an architecture, such as `riscv64`; folder: for what is built.
    """

    def __init__(self, tools: Callable[[str], Tools], folder: Path) -> None:
        self.tools = functools.cache(tools)
        self.folder = folder
        self._runner = functools.cache(self._build_runner)
        self._count = 0

    def _build_runner(self, architecture: str) -> Path:
        path = self.folder / f"kernel_runner_{architecture}"
        command = [self.tools(architecture).gcc, "-O1", "-rdynamic", str(RUNNER), "-o", str(path), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        return path

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
        compiled.export_library(str(path), fcompile=cc.cross_compiler(self.tools(architecture(core)).gcc))
        return path, out

    def run(self, library: Path, calls: Sequence[tuple[str, Sequence[Array]]], core: str) -> None:
        """Call functions of a library, one after the other; the arrays then hold what the calls left in them.

        Arrays that share memory here share it there: what one call writes is what a later one reads.
        """
        lines, parts, offset = [], [], 0
        places: dict[int, tuple[int, Array]] = {}
        for name, arrays in calls:
            lines.append(f"kernel {name} {len(arrays)}")
            for a in arrays:
                assert a.flags.c_contiguous
                if a.ctypes.data not in places:
                    places[a.ctypes.data] = offset, a
                    parts.append(a.tobytes() + bytes(-a.nbytes % _ALIGNMENT))
                    offset += len(parts[-1])
                kind = f"{_CODES[a.dtype.kind]} {8 * a.itemsize}"
                place, _ = places[a.ctypes.data]
                lines.append(f"{kind} {place} {a.nbytes} {a.ndim} {' '.join(map(str, a.shape))}")
        job, data = self.folder / "job.txt", self.folder / "data.bin"
        job.write_text("\n".join(lines) + "\n")
        data.write_bytes(b"".join(parts))
        tools, runner = self.tools(architecture(core)), self._runner(architecture(core))
        command = [tools.qemu, "-L", str(tools.root), "-cpu", QEMU_CPU.get(core, core)]
        command += [str(runner), str(library), str(job), str(data)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{library.name} on {core}: code {done.returncode}, {done.stderr.strip()[-400:]}"
        left = data.read_bytes()
        for place, a in places.values():
            a[...] = np.frombuffer(left, a.dtype, a.size, place).reshape(a.shape)

    def check(self, cases: Sequence[Case], core: str, tolerance: float = 0.0) -> None:
        """Compile and run all cases; integers equal the definition, floats within `tolerance` of the largest."""
        library, names = self.compile([case.kernel for case in cases], core)
        given = [case.arguments() for case in cases]
        arrays = [[a.copy() for a in arguments] for arguments in given]
        self.run(library, list(zip(names, arrays, strict=True)), core)
        for case, arguments, left in zip(cases, given, arrays, strict=True):
            label = f"{case.kernel.key} on {core}"
            for before, after in zip(arguments[:-1], left[:-1], strict=True):
                np.testing.assert_array_equal(before, after, err_msg=f"{label} changed an input")
            found = case.logical(left[-1])
            if case.expected.dtype == np.uint8 or tolerance == 0:
                np.testing.assert_array_equal(found, case.expected, err_msg=label)
            else:
                atol = tolerance * max(float(np.abs(case.expected).max(initial=0)), 1e-6)
                np.testing.assert_allclose(found, case.expected, rtol=0, atol=atol, err_msg=label)
