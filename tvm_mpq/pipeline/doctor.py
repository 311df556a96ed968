"""What this machine has and lacks for tvm-mpq, and how to mend it.

TVM is looked at from a process of its own: a broken installation may raise anything at import, or crash.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tvm_mpq import scratch, targets
from tvm_mpq.errors import MPQError
from tvm_mpq.report.answers import Check, DoctorReport
from tvm_mpq.targets.cpuinfo import usable_cores
from tvm_mpq.targets.cross import TOOLCHAINS, find_linker
from tvm_mpq.targets.health import BUSY_SHARE
from tvm_mpq.targets.rapl import energy_counters

TVM_VERSION = "0.27.0.post1"
"""The one release whose Python names and LLVM the kernels are written for; pyproject.toml pins the same."""

FFI_BELOW = (0, 1, 15)
"""With this release of apache-tvm-ffi `Schedule.tensorize` crashes."""

PYTHON_FROM = (3, 10)

PROBE = """
import json, tvm
from tvm.target import codegen
print(json.dumps({"version": tvm.__version__, "llvm": bool(tvm.runtime.enabled("llvm")),
                  "llvm_version": codegen.llvm_version_major(), "cpu": str(codegen.llvm_get_system_cpu())}))
"""
PROBE_TIMEOUT_SEC = 120.0

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def diagnose() -> DoctorReport:
    """Look at everything. `ok` is false when something needed is missing."""
    tvm, tvm_checks = _tvm()
    checks = [_python(), *tvm_checks, _compiler(), _cpu(), _solver(), _database(usable=bool(tvm))]
    checks += [*_packages(), *_cross_compilers(), _cores(), _governor(), _load(), _energy()]
    return {"ok": all(c["status"] != "missing" for c in checks), "checks": checks}


def _check(name: str, status: str, detail: str, mend: str = "") -> Check:
    return {"name": name, "status": status, "detail": detail, "mend": mend}


def _python() -> Check:
    wanted = ".".join(map(str, PYTHON_FROM))
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] >= PYTHON_FROM
    return _check("Python", "ok" if good else "missing", found, "" if good else f"install Python {wanted} or newer")


def _run(command: Sequence[str], timeout_sec: float, text: str = "") -> tuple[int, str, str]:
    """Exit code (127: cannot be started, 124: took too long), standard output, standard error."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, errors="replace", timeout=timeout_sec, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"no answer within {timeout_sec:g} s"
    except OSError as e:
        return 127, "", e.strerror or "cannot be started"
    return done.returncode, done.stdout, done.stderr


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].strip()


def _tvm() -> tuple[dict[str, Any], list[Check]]:
    """What TVM says of itself (empty when it cannot be used), and the checks."""
    mend = f"pip install 'apache-tvm=={TVM_VERSION}' 'apache-tvm-ffi<{'.'.join(map(str, FFI_BELOW))}'"
    ffi = _ffi(mend)
    code, out, err = _run([sys.executable, "-c", PROBE], PROBE_TIMEOUT_SEC)
    try:
        found: dict[str, Any] = json.loads(_last_line(out)) if code == 0 else {}
    except ValueError:
        found = {}
    if not found:
        why = _last_line(err) or f"its import ended with exit code {code}"
        return {}, [_check("TVM", "missing", f"cannot be imported: {why}", mend), ffi]
    version = str(found["version"])
    right = version == TVM_VERSION
    detail = version if right else f"{version}, but kernels are written for {TVM_VERSION}"
    llvm = _check("LLVM in TVM", "ok", f"LLVM {found['llvm_version']}, CPU {found['cpu']}")
    if not found["llvm"]:
        llvm = _check("LLVM in TVM", "missing", "this TVM was built without LLVM", mend)
    return found, [_check("TVM", "ok" if right else "missing", detail, "" if right else mend), ffi, llvm]


def _ffi(mend: str) -> Check:
    try:
        version = importlib.metadata.version("apache-tvm-ffi")
    except importlib.metadata.PackageNotFoundError:
        return _check("TVM FFI", "missing", "apache-tvm-ffi is not installed", mend)
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers >= FFI_BELOW:
        return _check("TVM FFI", "missing", f"{version} crashes in Schedule.tensorize", mend)
    return _check("TVM FFI", "ok", version)


def _compiler() -> Check:
    """A C++ compiler that can really link a shared library, for `export_library`; looked for as TVM looks."""
    mend = "install one: apt install g++, dnf install gcc-c++, or xcode-select --install"
    given = os.environ.get("CXX") or os.environ.get("CC")
    found = given or next(filter(None, map(shutil.which, ("g++", "gcc", "clang++", "clang", "c++", "cc"))), None)
    if found is None:
        return _check("C++ compiler", "missing", "none of g++, clang++, c++ is in PATH", mend)
    with scratch.folder() as folder:
        command = [found, "-shared", "-fPIC", "-x", "c++", "-", "-o", str(Path(folder) / "probe.so")]
        code, _, err = _run(command, 60, '#include <cstdint>\nextern "C" int32_t probe() { return 0; }\n')
    if code:
        return _check("C++ compiler", "missing", f"{found} cannot link a library: {_last_line(err)}", mend)
    return _check("C++ compiler", "ok", found)


def _cpu() -> Check:
    try:
        rows = targets.describe_rows()
    except (ImportError, OSError, RuntimeError, AttributeError) as e:  # asks LLVM where the system says nothing
        return _check("CPU", "warning", f"features are not known: {e}", "mend TVM first")
    local, *others = rows
    fitting = [row for row in others if row["runs_here"]]
    if not fitting:
        return _check(
            "CPU",
            "warning",
            f"{local['source']}; it lacks the features of every target row, so integer kernels may be missing",
            "use a CPU with AVX2, or AVX-512 VNNI",
        )
    best = max(fitting, key=lambda row: len(row["features"]))
    return _check("CPU", "ok", f"{local['source']}; nearest target row {best['name']}; {' '.join(local['features'])}")


def _solver() -> Check:
    mend = "pip install 'pulp>=3.0' 'highspy>=1.8'"
    try:
        from tvm_mpq.select.ilp import solve
        from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor
    except ImportError as e:
        return _check("solver", "missing", f"{e}", mend)
    choices = (Choice("slow", 32, {32: 2.0}), Choice("fast", 32, {32: 1.0}))
    operators = (Operator("probe", ("x",), "y", choices, (True,)),)
    problem = Problem(operators, (Tensor("x", (32,), fixed=32), Tensor("y", (32,))))
    try:
        solution = solve(problem, time_limit_sec=10)
    except (MPQError, RuntimeError, OSError) as e:
        return _check("solver", "missing", f"HiGHS does not solve a problem of one operator: {e}", mend)
    right = solution.choices == {"probe": "fast"}
    detail = solution.solver if right else f"{solution.solver} gives a wrong answer to a problem of one operator"
    return _check("solver", "ok" if right else "missing", detail, "" if right else mend)


def _database(*, usable: bool) -> Check:
    """Whether the default database can be written. The file is not made here."""
    name = "latency database"
    if not usable:
        return _check(name, "warning", "not looked at: needs TVM", "mend TVM first")
    from tvm_mpq.tuning.database.latencies import LatencyDatabase, default_path

    path = default_path()
    mend = "choose another file with --db, or set XDG_CACHE_HOME"
    if path.exists():
        try:
            with LatencyDatabase(path) as database:
                records = database.stats().records
        except MPQError as e:
            return _check(name, "missing", str(e), mend)
        folder, detail = path, f"{path}, {records} records"
    else:
        folder = next(p for p in path.parents if p.exists())
        detail = f"{path}, not made yet"
    if not os.access(folder, os.W_OK) or (folder != path and not folder.is_dir()):
        return _check(name, "missing", f"{path} cannot be written", mend)
    return _check(name, "ok", detail)


def _packages() -> Iterator[Check]:
    """Libraries that bring one format or one comfort each."""
    rows = (
        ("onnx", ("onnx",), "ONNX files", "pip install onnx"),
        ("tflite", ("tflite",), "TFLite files", "pip install tflite"),
        ("torch", ("torch",), "PyTorch models and the demo", "pip install 'tvm-mpq[torch]'"),
        ("sklearn", ("scikit-learn",), "the demo", "pip install 'tvm-mpq[demo]'"),
        ("zigzag", ("zigzag-dse",), "costs of accelerators by ZigZag", "pip install 'tvm-mpq[sim]' (Python 3.11)"),
        ("scalesim", ("scalesim",), "costs of systolic arrays by SCALE-Sim", "pip install 'tvm-mpq[sim]'"),
        ("xgboost", ("xgboost-cpu", "xgboost"), "predicted latencies", "pip install xgboost-cpu (macOS: xgboost)"),
    )
    for module, distributions, purpose, mend in rows:
        if importlib.util.find_spec(module) is None:
            yield _check(module, "warning", f"not installed; needed for {purpose}", mend)
        else:
            yield _check(module, "ok", f"{_version(distributions)}, for {purpose}")


def _version(distributions: Sequence[str]) -> str:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "installed"


def _cross_compilers() -> Iterator[Check]:
    """One linker for each architecture that target rows have and this machine does not."""
    here = targets.local_architecture()
    for architecture, toolchain in TOOLCHAINS.items():
        if architecture == here:
            continue
        name = f"linker for {architecture}"
        found = find_linker(architecture)
        if found:
            yield _check(name, "ok", found)
            continue
        yield _check(
            name,
            "warning",
            f"{toolchain.triple}-g++ is not in PATH; needed only to build for {architecture} boards",
            f"apt install {toolchain.package}",
        )


def _cores() -> Check:
    usable = usable_cores()
    if usable < 2:
        return _check(
            "cores",
            "warning",
            "1 usable core: measuring shares it with everything else, so times will be noisier",
            "allow this process a second core",
        )
    return _check("cores", "ok", f"{usable} usable")


def _governor() -> Check:
    try:
        governor = GOVERNOR.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return _check("CPU frequency", "ok", "the system does not say how it is governed (virtual machines do not)")
    if governor == "powersave":
        mend = "cpupower frequency-set -g performance"
        return _check("CPU frequency", "warning", "governor powersave: times vary", mend)
    return _check("CPU frequency", "ok", f"governor {governor}")


def _load() -> Check:
    if not hasattr(os, "getloadavg"):
        return _check("load", "ok", "the system does not say")
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    detail = f"{load:.1f} on {cores} logical cores"
    if load > BUSY_SHARE * cores:
        return _check("load", "warning", f"{detail}: other programs disturb measurements", "stop them while measuring")
    return _check("load", "ok", detail)


def _energy() -> Check:
    """Of interest only: nothing here needs it."""
    counters, reason = energy_counters()
    detail = f"{len(counters)} packages can be read" if counters else reason
    return _check("energy counters", "ok", f"{detail}; energies of plans come from simulated sources")
