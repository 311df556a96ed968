"""A whole network under one plan: compiled, exported, and then run on the device as a stranger would run it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tvm
from tvm import relax

from tvm_mpq import targets
from tvm_mpq.errors import OutputError
from tvm_mpq.execute.accuracy import classifies
from tvm_mpq.execute.linking import EXEC_MODE, Linked, compile_linked, linked
from tvm_mpq.execute.prepare import Prepared
from tvm_mpq.execute.profile import KernelCall, kernel_calls
from tvm_mpq.frontends.checks import refusing
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.lowering import KernelStep, Step, lower
from tvm_mpq.passes.realize import KERNEL_ATTR, Realize
from tvm_mpq.schema import Plan, precision_counts
from tvm_mpq.targets.cross import export
from tvm_mpq.tuning.compile.kernel_store import KernelStore
from tvm_mpq.tuning.devices.session_base import Session


def compile_network(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.runtime.Executable:
    """A network, all of it compiled anew."""
    return relax.build(mod, target, exec_mode=EXEC_MODE)


@dataclass(frozen=True)
class Built:
    """An exported library. activation_bytes: what a run allocates for tensors; calls: of its kernels, in order."""

    path: Path
    activation_bytes: int
    calls: tuple[KernelCall, ...] = ()

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size


def realize(prepared: Prepared, plan: Plan, codes: WeightCodes | None = None) -> tvm.IRModule:
    """The network's kernels and boundaries under a plan. codes: weights quantized elsewhere."""
    return tvm.transform.Sequential([Realize(plan, codes)])(prepared.mod)


def build(
    prepared: Prepared, plan: Plan, path: Path, mod: tvm.IRModule | None = None, store: KernelStore | None = None
) -> Built:
    """Compile and export.

    mod: the plan realized, if it is already. store: kernels that are compiled already, which are only linked.

    Raises
    ------
    UnsupportedModelError
        When TVM cannot compile it.
    OutputError
        When it cannot be written.
    """
    memory = PlannedMemory()
    with refusing(f"{prepared.loaded.name} cannot be compiled"):
        mod = realize(prepared, plan) if mod is None else mod
        parts = Linked(mod, {}, ()) if store is None else linked(mod, store)
        with tvm.transform.PassContext(opt_level=3, instruments=[memory]):
            target = prepared.tvm_target()
            executable = compile_linked(parts, target) if parts.objects else compile_network(mod, target)
    try:
        export(executable, path, targets.linker_of(prepared.row), parts.objects)
    except OSError as e:
        raise OutputError(f"cannot write library {str(path)!r}: {e.strerror}") from e
    except RuntimeError as e:  # the linker's own words, of which the first say what it is about
        raise OutputError(f"cannot link library {str(path)!r}: {str(e).strip().splitlines()[0][:300]}") from e
    return Built(path, memory.bytes, kernel_calls(mod, prepared.graph, parts.symbols))


@tvm.ir.instrument.pass_instrument
class PlannedMemory:
    """Reads the static memory plan as it is made: bytes of all storages, which later tensors use again.

    Inputs, outputs, weights, and the scratch space within a kernel are not in it.
    """

    def __init__(self) -> None:
        self.bytes = 0

    def run_after_pass(self, mod: tvm.IRModule, info: tvm.transform.PassInfo) -> None:
        if info.name != "StaticPlanBlockMemory":
            return
        sizes: list[int] = []

        def collect(expr: relax.Expr) -> None:
            if isinstance(expr, relax.Call) and expr.op == tvm.ir.Op.get("relax.memory.alloc_storage"):
                sizes.append(math.prod(int(d) for d in expr.args[0].values))

        relax.analysis.post_order_visit(mod["main"], collect)
        self.bytes = sum(sizes)


def plan_digest(
    prepared: Prepared, plan: Plan, mod: tvm.IRModule, store: KernelStore, codes: WeightCodes | None = None
) -> str:
    """Identifies what a plan compiles to for this network: for results that may be kept.

    mod: the plan realized, with `codes` where weights were quantized elsewhere. Every kernel and every piece of float
    code counts by its code, so that a time measured before a kernel changed is not taken for the time of today's.
    """
    steps = [s for s in all_steps(prepared, plan) if isinstance(s, KernelStep)]
    kernels = [[s.node, *s.kernel.key, store.source(s.kernel).version] for s in steps]
    floats = [[store.source_of(func).version, calls] for func, calls in float_functions(mod)]
    text = json.dumps([plan.operators, plan.formats, plan.tvm_target_attrs, kernels, floats], sort_keys=True)
    ranges = repr(sorted(plan.tensors.items()))
    rounding = codes.digest if codes else ""
    whole = "|".join((prepared.loaded.fingerprint, text, ranges, rounding, tvm.__version__))
    return hashlib.sha256(whole.encode()).hexdigest()


def summary(plan: Plan) -> str:
    """How many operators run at each precision, such as `4 x w4a8, 14 x w8a8`."""
    return precision_counts(plan.operators.values()) or "no weighted operator"


def plan_info(prepared: Prepared, built: Built) -> dict[str, Any]:
    """What `run` needs to know of a built folder without the model."""
    return {
        "model": prepared.loaded.name,
        "threads": prepared.threads,
        "inputs": [[name, list(shape), dtype] for name, (shape, dtype) in prepared.inputs.items()],  # in order
        "classifies": classifies(prepared.graph),
        "calls": [call.to_json() for call in built.calls],
    }


def float_functions(mod: tvm.IRModule) -> list[tuple[tvm.tirx.PrimFunc, int]]:
    """PrimFuncs in a realized module that are not template kernels, each with its number of calls in main."""
    counts: dict[tvm.ir.GlobalVar, int] = {}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Call) and value.op == tvm.ir.Op.get("relax.call_tir"):
                counts[value.args[0]] = counts.get(value.args[0], 0) + 1
    functions = [(mod[gvar], count) for gvar, count in counts.items()]
    return [(func, count) for func, count in functions if KERNEL_ATTR not in func.attrs]


def weight_bytes(steps: Sequence[Step]) -> int:
    """Bytes of packed weights and constants that the plan's kernels carry."""
    return sum(a.nbytes for s in steps if isinstance(s, KernelStep) for a in s.kernel.constants(s.operands))


def run_library(
    session: Session,
    path: Path,
    inputs: Sequence[Sequence[npt.NDArray[Any]]],
    progress: Callable[[int], None] | None = None,
) -> list[npt.NDArray[Any]]:
    """First output of a built library for each sample, on the device, through plain TVM runtime."""
    return [outputs[0] for outputs in run_outputs(session, path, inputs, progress)]


def run_outputs(
    session: Session,
    path: Path,
    inputs: Sequence[Sequence[npt.NDArray[Any]]],
    progress: Callable[[int], None] | None = None,
) -> list[list[npt.NDArray[Any]]]:
    """All outputs for each sample."""
    module = session.upload_module(path)
    machine = session.guarded("set-up of the network", lambda: relax.VirtualMachine(module, session.device))
    outputs = []
    for i, arrays in enumerate(inputs):
        outputs.append(session.run_network(machine, arrays))
        if progress:
            progress(i + 1)
    return outputs


def all_steps(prepared: Prepared, plan: Plan, codes: WeightCodes | None = None) -> list[Step]:
    """The plan's steps for this network. codes: weights quantized elsewhere."""
    return lower(prepared.graph, plan, prepared.features, codes)


def conversions(steps: Sequence[Step]) -> list[str]:
    """Readable boundaries of lowered steps, such as `layer1.conv1:32->8`."""
    names = {s.node for s in steps if isinstance(s, KernelStep) and ":" in s.node}
    return sorted(names)
