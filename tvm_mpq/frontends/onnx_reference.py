"""What an ONNX model computes: by ONNX Runtime where it is installed, else by the ONNX package's own evaluator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from tvm_mpq.errors import NoReferenceError
from tvm_mpq.frontends.checks import GenericArray, one_line
from tvm_mpq.frontends.onnx_rnn import overlooked_by_reference
from tvm_mpq.frontends.reference import Answer

PATIENCE_SEC = 20.0
"""How long ONNX's own evaluator may take; it is written for clarity, and a convolution takes it seconds."""


class OnnxReference:
    """Implements `frontends.reference.Reference`.

    read: gives the model anew, with sizes fixed and float32 throughout, so that nobody holds two copies of its weights.
    """

    def __init__(self, read: Callable[[], onnx.ModelProto], patience_sec: float = PATIENCE_SEC) -> None:
        self._read = read
        self._patience_sec = patience_sec

    def answers(self, inputs: Mapping[str, GenericArray]) -> Iterator[Answer]:
        yield from self._runs(self._read(), inputs, None)

    def tensors(self, inputs: Mapping[str, GenericArray], names: Sequence[str]) -> dict[str, GenericArray]:
        model = self._read()
        made = {name for node in model.graph.node for name in node.output}
        shown = [name for name in dict.fromkeys(names) if name in made]
        if not shown:
            return {}
        known = {o.name for o in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in shown if name not in known)
        return dict(zip(shown, next(self._runs(model, inputs, shown)).outputs, strict=True))

    def _runs(
        self, model: onnx.ModelProto, inputs: Mapping[str, GenericArray], names: list[str] | None
    ) -> Iterator[Answer]:
        taken = {i.name for i in model.graph.input}
        feeds = {name: x for name, x in inputs.items() if name in taken}
        refusals = []
        for run in (self._by_runtime, self._by_evaluator):
            try:
                yield run(model, feeds, names)
            except NoReferenceError as e:
                refusals.append(str(e))
        if len(refusals) == 2:
            raise NoReferenceError("; ".join(refusals))

    def _by_runtime(self, model: onnx.ModelProto, feeds: dict[str, GenericArray], names: list[str] | None) -> Answer:
        try:
            import onnxruntime
        except ImportError as e:
            raise NoReferenceError("ONNX Runtime is not installed") from e
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it refuses is told here
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            found = session.run(names, feeds)
        except Exception as e:
            raise NoReferenceError(f"ONNX Runtime refuses the model ({one_line(e)})") from e
        return Answer(f"ONNX Runtime {onnxruntime.__version__}", [np.asarray(x) for x in found])

    def _by_evaluator(self, model: onnx.ModelProto, feeds: dict[str, GenericArray], names: list[str] | None) -> Answer:
        overlooked = overlooked_by_reference(model.graph.node) or _overlooked_in_pools(model.graph.node)
        if overlooked:
            raise NoReferenceError(f"ONNX's reference evaluator does not read {overlooked}: install onnxruntime")
        deadline = time.monotonic() + self._patience_sec
        try:
            found = _Hasty(model, deadline).run(names, feeds)
        except NoReferenceError as e:
            raise NoReferenceError(
                f"ONNX's reference evaluator does not finish within {self._patience_sec:g} s: install onnxruntime"
            ) from e
        except Exception as e:
            raise NoReferenceError(f"ONNX's reference evaluator cannot run the model ({one_line(e)})") from e
        assert isinstance(found, list)  # a mapping only when that is asked for
        return Answer("ONNX's reference evaluator", [np.asarray(x) for x in found])


def _overlooked_in_pools(nodes: Iterable[onnx.NodeProto]) -> str | None:
    """What the ONNX package's own evaluator reads past in a pool: results of SAME_LOWER come out too small."""
    for node in nodes:
        lower = any(a.name == "auto_pad" and a.s == b"SAME_LOWER" for a in node.attribute)
        if lower and node.op_type in ("AveragePool", "LpPool", "MaxPool"):
            return f"auto_pad SAME_LOWER of {node.op_type}"
    return None


class _Hasty(ReferenceEvaluator):
    """Gives up at a time, looked at before each operator, which the evaluator announces to its log."""

    def __init__(self, model: onnx.ModelProto, deadline: float) -> None:
        self._deadline = deadline
        super().__init__(model)

    def _log(self, level: int, pattern: str, *args: Any) -> None:
        if time.monotonic() > self._deadline:
            raise NoReferenceError("no time left")
