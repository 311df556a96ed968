"""Is what was imported what the user's model computes? Both are run on one sample, before anything else happens.

Importers drop and misread attributes without a word, and so may a pass or a compiler: the network that is compared is
the one that calibration runs, at fp32, against an evaluator that shares no code with it.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvm_mpq.errors import MPQError, NoReferenceError, UnsupportedModelError, VerificationError
from tvm_mpq.execute.host_runtime import float_module
from tvm_mpq.execute.interpreter import Interpreter, Sample
from tvm_mpq.execute.prepare import Prepared
from tvm_mpq.frontends.checks import one_line
from tvm_mpq.frontends.naming import operator_of
from tvm_mpq.frontends.reference import Reference
from tvm_mpq.numerics.arrays import Array
from tvm_mpq.passes.graph import read_graph
from tvm_mpq.passes.lowering import FloatStep, lower
from tvm_mpq.passes.realize import RelaxEmitter, finish
from tvm_mpq.schema import FP32, Plan

TOLERANCE = 1e-3
"""Allowed difference of a value, as a share of its tensor's standard deviation: sums in another order, through all
layers, leave some 1e-6 to 1e-4."""

MAGNITUDE = 1e-5
"""Allowed beside that, as a share of the tensor's largest value: of values large and alike, float32 has no more."""

FLIPS = 1e-3
"""Share of a tensor's elements that may be decided otherwise, where a comparison or a rounding stands before them."""

DECIDED = 1e-6
"""How near to 0 or 1 a probability says nothing of the numbers that it was made from."""

DECISIONS = frozenset(
    ["argmax", "argmin", "argsort", "topk", "sort", "round", "floor", "ceil", "sign", "trunc", "equal", "not_equal"]
    + ["greater", "greater_equal", "less", "less_equal", "floor_divide", "floor_mod", "mod"]
)
"""Relax operators whose result jumps where their operand does not."""


@dataclass(frozen=True)
class ImportCheck:
    """How an import was verified. skipped: why it was not, else "". error: largest difference, in outputs' spreads."""

    evaluator: str = ""
    error: float = 0.0
    seconds: float = 0.0
    skipped: str = ""

    @property
    def line(self) -> str:
        """For the user."""
        if self.skipped:
            return f"the import was not verified: {self.skipped}"
        return f"import verified against {self.evaluator}: error {self.error:.1g} of the outputs' spread"


def check_import(prepared: Prepared, interpreter: Interpreter, sample: Sample) -> ImportCheck:
    """Run the prepared network at fp32 and its source's evaluator on `sample` (by the model's own input names).

    Raises
    ------
    VerificationError
        When an output differs; the text names the first operator whose result does.
    UnsupportedModelError
        When TVM cannot compile the network; the text names the operator that it cannot.
    """
    reference = prepared.loaded.reference
    if reference is None:
        return ImportCheck(skipped="no evaluator of this kind of model is installed")
    start = time.perf_counter()
    try:
        found = fp32_outputs(prepared, interpreter, prepared.by_tensor(sample))
    except MPQError:
        raise
    except Exception as e:  # of TVM's passes and of LLVM: any
        raise UnsupportedModelError(
            f"{prepared.loaded.name}: {_uncompilable(prepared) or 'the network'} cannot be compiled: {one_line(e)}; "
            "write it with other operators"
        ) from e
    flips = FLIPS if decides(prepared.loaded.mod) else 0.0
    try:
        answer = next(reference.answers(sample))
    except NoReferenceError as e:
        return ImportCheck(seconds=time.perf_counter() - start, skipped=str(e))
    text = _difference(found, answer.outputs, flips)
    place = ""
    if text:
        place = _first_fault(prepared, reference, sample, flips, alone=True) or f"in an output {text}"
    elif any(map(_is_decided, answer.outputs)):
        place = _first_fault(prepared, reference, sample, flips, alone=False)
    if not place:
        error = max(map(relative_difference, found, answer.outputs), default=0.0)
        return ImportCheck(answer.evaluator, error, time.perf_counter() - start)
    raise VerificationError(
        f"{prepared.loaded.name}: the imported network does not compute what {answer.evaluator} does: {place}; "
        "write that operator otherwise, or take the network as it is with --no-verify-import"
    )


def _uncompilable(prepared: Prepared) -> str:
    """The first float operator that TVM cannot compile alone; "" when it can each."""
    for node in prepared.graph.nodes:
        if node.kind == "float" and node.binding is not None:
            try:
                tvm.compile(
                    finish(float_module(prepared.graph, [node]), prepared.features), target=prepared.tvm_target()
                )
            except Exception:  # noqa: BLE001 - whatever it is, it was told of already
                return f"{operator_of(node.binding.value) or 'operator'} {node.name!r}"
    return ""


def _difference(found: list[Array], wanted: list[Array], flips: float) -> str:
    if len(found) != len(wanted):
        return f"there are {len(found)} outputs instead of {len(wanted)}"
    return next((text for pair in zip(found, wanted, strict=True) if (text := fault(*pair, flips))), "")


def fp32_outputs(prepared: Prepared, interpreter: Interpreter, sample: Sample) -> list[Array]:
    """The network's outputs with the kernels that calibration uses; sample: by the graph's own input names."""
    operators = {node.name: str(FP32) for node in prepared.graph.quantizable()}
    plan = Plan(prepared.row.name, prepared.tvm_target_attrs, operators, {})
    steps = lower(prepared.graph, plan, prepared.features)
    interpreter.prepare(steps)
    return interpreter.outputs(interpreter.run(steps, interpreter.load(sample), tag="import"))


def decides(mod: tvm.IRModule) -> bool:
    """Whether an operator of the network turns nearly equal numbers into different ones."""
    found = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            name = str(expr.op.name).removeprefix("relax.")
            integers = name == "astype" and not str(expr.attrs.dtype).startswith("float")
            found.append(name in DECISIONS or integers)

    relax.analysis.post_order_visit(mod["main"], visit)
    return any(found)


def fault(result: Array, wanted: Array, flips: float) -> str:
    """What is wrong with a result; "" when nothing is."""
    if result.shape != wanted.shape:
        return f"the shape is {result.shape} instead of {wanted.shape}"
    if wanted.dtype.kind != result.dtype.kind:
        return f"values are {result.dtype} instead of {wanted.dtype}"
    if wanted.dtype.kind == "f":
        wrong = ~np.isclose(result, wanted, rtol=0, atol=_allowed(wanted), equal_nan=True)
    else:
        wrong = result != wanted
    count = int(np.count_nonzero(wrong))
    return f"{count} of {wanted.size} values differ" if count > flips * wanted.size else ""


def relative_difference(result: Array, wanted: Array) -> float:
    """Largest difference of finite values over what is allowed, times TOLERANCE; 0 for integers."""
    if wanted.dtype.kind != "f":
        return 0.0
    both = np.isfinite(result) & np.isfinite(wanted)
    largest = np.abs(result[both].astype(np.float64) - wanted[both]).max(initial=0.0)
    return TOLERANCE * float(largest) / _allowed(wanted)


def _is_decided(output: Array) -> bool:
    """Whether a softmax or sigmoid left zeros and ones, which hide what stands before it; so do zeros of any source."""
    return output.dtype.kind == "f" and bool((np.abs(output - np.rint(output.clip(0, 1))) < DECIDED).all())


def _allowed(wanted: Array) -> float:
    finite = wanted[np.isfinite(wanted)].astype(np.float64)
    spread = float(finite.std()) if finite.size else 0.0
    return TOLERANCE * spread + MAGNITUDE * float(np.abs(finite).max(initial=0.0)) + float(np.finfo(np.float32).tiny)


def _first_fault(prepared: Prepared, reference: Reference, sample: Sample, flips: float, *, alone: bool) -> str:
    """The first operator whose result differs, as we compile it, with `alone` as TVM does first; "" when none does."""
    loaded = prepared.loaded
    try:
        wanted = reference.tensors(sample, list(loaded.tensors.values()))
    except NoReferenceError:
        return ""
    graph = read_graph(loaded.mod)
    sources = {
        name: loaded.tensors[str(v.name)] for v, name in graph.var_names.items() if str(v.name) in loaded.tensors
    }
    operators = {n.output: operator_of(n.binding.value) for n in graph.nodes if n.binding is not None}
    seen = [node.output for node in graph.nodes if sources.get(node.output) in wanted]
    shown = RelaxEmitter(dataclasses.replace(graph, outputs=tuple(seen), is_tuple=True))
    shown.emit_main([FloatStep(node) for node in graph.nodes])
    inputs = [sample[n] for n in loaded.input_names]
    ours = finish(shown.module(), prepared.features)
    for mod in (shown.module(), ours) if alone else (ours,):
        machine = relax.VirtualMachine(tvm.compile(mod, target=prepared.tvm_target()), tvm.cpu())
        found = machine["main"](*[tvm.runtime.tensor(np.array(x, order="C")) for x in inputs])
        for name, value in zip(seen, found, strict=True):
            text = fault(value.numpy(), wanted[sources[name]], flips)
            if text:
                return f"at {operators[name] or 'operator'} {name!r} {text}"
    return ""
