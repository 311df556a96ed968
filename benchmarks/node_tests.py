"""The ONNX package's own node tests, each built at fp32 and run as a compiled library: right, refused, or a fault.

    python benchmarks/node_tests.py [--match TEXT] [--ort] [--json FILE] [--workers N]

Cases are those of `onnx.backend.test.case.node` with a float32 input, plain tensors and no model-local functions. A
file that is refused as it is gets its integer inputs (axes, shapes), and if that is not enough all inputs but the first
float32 one, bound as initializers: what an exporter would have written.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

OUTCOMES = ("right", "refused", "traceback", "wrong", "crash")

SPREAD = 1e-5
"""Absolute error allowed beside the case's own relative one, as a share of the largest expected value: float32 sums in
another order."""


@dataclass(frozen=True)
class Verdict:
    """outcome: one of OUTCOMES; text: what was said or what is wrong; bound: inputs that became initializers."""

    case: str
    operator: str
    outcome: str
    text: str = ""
    bound: tuple[str, ...] = ()
    ort: bool | None = None


def cases() -> Iterator[Any]:
    """The cases that count here."""
    for case in _all_cases():
        inputs, outputs = case.data_sets[0]
        plain = all(isinstance(x, np.ndarray) and x.dtype.kind in "fiub" for x in (*inputs, *outputs))
        typed = all(v.type.HasField("tensor_type") for v in (*case.model.graph.input, *case.model.graph.output))
        if plain and typed and any(x.dtype == np.float32 for x in inputs) and not case.model.functions:
            yield case


@cache
def _all_cases() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(collect_testcases(None))


@cache
def _by_name() -> dict[str, Any]:
    return {case.name: case for case in cases()}


def judge(case: Any, ort: bool = False) -> Verdict:
    """Build and run one case in this process."""
    from tvm_mpq.errors import MPQError

    operator = case.model.graph.node[-1].op_type
    expected = case.data_sets[0][1]
    known = _ort_is_right(case) if ort else None
    refusal = ""
    for model, inputs, bound in _readings(case):
        try:
            results = _built(model, inputs)
        except MPQError as e:
            refusal = f"{type(e).__name__}: {e}"
            if "\n" in str(e):
                return Verdict(case.name, operator, "traceback", f"many lines: {str(e)[:300]}", bound, known)
            continue
        except Exception as e:  # noqa: BLE001 - whatever else comes out is what is counted here
            return Verdict(case.name, operator, "traceback", f"{type(e).__name__}: {str(e)[-300:]}", bound, known)
        fault = difference(results, expected, case.rtol)
        return Verdict(case.name, operator, "wrong" if fault else "right", fault, bound, known)
    return Verdict(case.name, operator, "refused", refusal, (), known)


def difference(results: Sequence[Any], expected: Sequence[Any], rtol: float) -> str:
    """What is wrong with these results; "" when nothing is."""
    if len(results) != len(expected):
        return f"{len(results)} outputs instead of {len(expected)}"
    for i, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        if result.shape != wanted.shape:
            return f"output {i} has shape {result.shape}, not {wanted.shape}"
        if result.dtype != wanted.dtype and wanted.dtype.kind != "f":
            return f"output {i} has dtype {result.dtype}, not {wanted.dtype}"
        if wanted.dtype.kind == "f":
            finite = np.abs(wanted[np.isfinite(wanted)])
            atol = SPREAD * float(finite.max(initial=0.0))
            equal = np.isclose(result, wanted, rtol=rtol, atol=atol, equal_nan=True)
        else:
            equal = result == wanted
        if not np.all(equal):
            return f"{np.count_nonzero(~equal)} of {wanted.size} values of output {i} differ"
    return ""


def _readings(case: Any) -> Iterator[tuple[onnx.ModelProto, list[Any], tuple[str, ...]]]:
    """The case as it is, with integer inputs bound, and with all bound but the first float32 one."""
    inputs = case.data_sets[0][0]
    names = [v.name for v in case.model.graph.input]
    integers = {n for n, x in zip(names, inputs, strict=True) if x.dtype.kind != "f"}
    first = next(n for n, x in zip(names, inputs, strict=True) if x.dtype == np.float32)
    seen: list[set[str]] = []
    for bound in (set(), integers, set(names) - {first}):
        if bound in seen:
            continue
        seen.append(bound)
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        values = dict(zip(names, inputs, strict=True))
        model.graph.initializer.extend(numpy_helper.from_array(values[n], n) for n in names if n in bound)
        kept = [v for v in model.graph.input if v.name not in bound]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        yield model, [values[v.name] for v in kept], tuple(sorted(bound))


def _built(model: onnx.ModelProto, inputs: Sequence[Any]) -> list[Any]:
    """Outputs of the compiled library on these inputs."""
    import tvm
    from tvm import relax

    from tvm_mpq.pipeline import Options, build_network

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder, "case.onnx")
        onnx.save(model, str(file))
        shapes = {v.name: x.shape for v, x in zip(model.graph.input, inputs, strict=True) if not x.size}
        options = Options(file, input_shapes=shapes, db=Path(folder, "db.sqlite"), workers=1)
        result = build_network(options, uniform="fp32")
        machine = relax.VirtualMachine(tvm.runtime.load_module(str(result.folder / "model.so")), tvm.cpu())
        out = machine["main"](*[tvm.runtime.tensor(np.array(x, order="C")) for x in inputs])
        return [t.numpy() for t in ([out] if hasattr(out, "numpy") else out)]


def _ort_is_right(case: Any) -> bool:
    import onnxruntime

    inputs, expected = case.data_sets[0]
    names = [v.name for v in case.model.graph.input]
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            case.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return not difference(session.run(None, dict(zip(names, inputs, strict=True))), expected, case.rtol)
    except Exception:  # noqa: BLE001 - its own errors, and anything else: not right
        return False


def _share_device() -> None:
    """In a worker process: all its cases run on one device process, whose start takes longer than a case."""
    from tvm_mpq.pipeline import context
    from tvm_mpq.tuning.devices.pool import ThisMachine

    class Kept(ThisMachine):
        def close(self) -> None:
            """It serves the next case; it ends with this process."""

    machine = Kept(1)
    context.ThisMachine = lambda threads: machine  # type: ignore[assignment, misc]


def _work(name: str, ort: bool) -> Verdict:
    return judge(_by_name()[name], ort)


def run(names: Sequence[str], workers: int, ort: bool) -> Iterator[Verdict]:
    """Verdicts in order. A case during which its process ends is a crash; the next ones get a new process."""
    context = multiprocessing.get_context("spawn")
    todo = list(names)
    while todo:
        with ProcessPoolExecutor(workers, context, _share_device) as pool:
            futures = [(name, pool.submit(_work, name, ort)) for name in todo]
            for name, future in futures:
                try:
                    yield future.result()
                    todo.remove(name)
                except BrokenProcessPool:
                    break
        if todo:  # whose process ended is known once it runs alone
            with ProcessPoolExecutor(1, context, _share_device) as alone:
                try:
                    yield alone.submit(_work, todo[0], ort).result()
                except BrokenProcessPool:
                    yield Verdict(todo[0], _by_name()[todo[0]].model.graph.node[-1].op_type, "crash", "process ended")
                todo.pop(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--match", default="", help="only names with one of these texts, by commas; -TEXT: without")
    parser.add_argument("--ort", action="store_true", help="also run ONNX Runtime's CPU provider")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all verdicts here")
    parser.add_argument("--quiet", action="store_true", help="counts only")
    parsed = parser.parse_args()
    texts = parsed.match.split(",")
    names = list(selected(_by_name(), texts))
    verdicts = []
    for verdict in run(names, parsed.workers, parsed.ort):
        verdicts.append(verdict)
        if not parsed.quiet and verdict.outcome != "right":
            print(f"{verdict.outcome:9} {verdict.case}: {verdict.text}", flush=True)
        if parsed.json:
            parsed.json.write_text(json.dumps([dataclasses.asdict(v) for v in verdicts], indent=1))
    show(verdicts)
    sys.exit(any(v.outcome in ("traceback", "wrong", "crash") for v in verdicts))


def selected(names: Iterable[str], texts: Sequence[str]) -> Iterator[str]:
    """Names that hold one of the texts, and none of those that begin with a minus."""
    without = [text[1:] for text in texts if text.startswith("-")]
    wanted = [text for text in texts if not text.startswith("-")] or [""]
    for name in names:
        if any(text in name for text in wanted) and not any(text in name for text in without):
            yield name


def show(verdicts: Sequence[Verdict]) -> None:
    """Counts in all and for each operator that is not right throughout."""
    counts = Counter(v.outcome for v in verdicts)
    print(", ".join(f"{counts[o]} {o}" for o in OUTCOMES), f"of {len(verdicts)} cases")
    ours = [v for v in verdicts if v.ort]
    if ours:
        right = sum(v.outcome == "right" for v in ours)
        print(f"{right} of the {len(ours)} that ONNX Runtime gets right ({right / len(ours):.1%})")
    for operator in sorted({v.operator for v in verdicts}):
        row = Counter(v.outcome for v in verdicts if v.operator == operator)
        if set(row) != {"right"}:
            print(f"{operator:28}", *(f"{row[o]:4} {o}" for o in OUTCOMES if row[o]))


if __name__ == "__main__":
    main()
