"""One tried network, in a process of its own: inspected, built at fp32 and at w8a8, compared, timed.

    python benchmarks/tried_worker.py JOB.json ANSWER.json

The answer is written anew after every step, so that one who is stopped says how far it came.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tried_inputs import samples

Array = npt.NDArray[Any]
CALIBRATION, EVALUATION = 16, 8
TURN_SEC = 0.03


@dataclass(frozen=True)
class Job:
    """file and what `Entry` says of it; package: folder that may hold LiteRT; rounds: 0 = nothing is timed."""

    file: str
    shapes: Mapping[str, Sequence[int]]
    fill: Mapping[str, str]
    litert: str
    rounds: int


@dataclass
class Answer:
    """What is known so far. A number that is None was not reached, or the step refused, and `said` tells why.

    refused: the project's own error; fault: any other exception, or an error of several lines.
    error: largest difference of the fp32 library over all outputs and samples, as a share of that output's largest
    value (of integers: the share that differs). snr_db: the worst output's signal-to-noise ratio at w8a8.
    slower: time of one run divided by the reference's, the median over rounds.
    """

    step: str = "inspect"
    reference: str = ""
    refused: str = ""
    fault: str = ""
    said: list[str] = field(default_factory=list)
    operators: int | None = None
    quantizable: int | None = None
    macs: int | None = None
    build_sec: float | None = None
    error: float | None = None
    w8a8_sec: float | None = None
    snr_db: float | None = None
    slower_fp32: float | None = None
    slower_w8a8: float | None = None
    reference_ms: float | None = None


class Runner(Protocol):
    """A network that is ready to run. Inputs and outputs are in the model's order."""

    def __call__(self, inputs: Sequence[Array]) -> list[Array]: ...


class OnnxRuntime:
    """The file as it is, on one thread."""

    def __init__(self, file: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._names = [i.name for i in self._session.get_inputs()]

    def __call__(self, inputs: Sequence[Array]) -> list[Array]:
        return list(self._session.run(None, dict(zip(self._names, inputs, strict=True))))


class LiteRT:
    """The file as it is, on one thread; real numbers in and out, whatever integers it keeps."""

    def __init__(self, file: str) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.name = "LiteRT"
        self._interpreter = Interpreter(model_path=file, num_threads=1)
        self._interpreter.allocate_tensors()
        self._fed = self._interpreter.get_input_details()

    def __call__(self, inputs: Sequence[Array]) -> list[Array]:
        for detail, x in zip(self._fed, inputs, strict=True):
            self._interpreter.set_tensor(detail["index"], _stored(x, detail))
        self._interpreter.reset_all_variables()
        self._interpreter.invoke()
        found = self._interpreter.get_output_details()
        return [_real(self._interpreter.get_tensor(d["index"]), d) for d in found]


def _stored(x: Array, detail: Mapping[str, Any]) -> Array:
    scale, zero = detail["quantization"]
    if not scale:
        return x.astype(detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    integers: Array = np.clip(np.rint(x / scale) + zero, limits.min, limits.max)
    return integers.astype(detail["dtype"])


def _real(x: Array, detail: Mapping[str, Any]) -> Array:
    scale, zero = detail["quantization"]
    return (scale * (x.astype(np.float32) - zero)).astype(np.float32) if scale else x


class Library:
    """A compiled network in plain TVM."""

    def __init__(self, folder: Path) -> None:
        import tvm
        from tvm import relax

        self._tensor: Callable[[Array], Any] = tvm.runtime.tensor
        module = tvm.runtime.load_module(str(folder / "model.so"))
        self._main = relax.VirtualMachine(module, tvm.cpu())["main"]

    def __call__(self, inputs: Sequence[Array]) -> list[Array]:
        out = self._main(*[self._tensor(np.array(x, order="C")) for x in inputs])
        return [t.numpy() for t in ([out] if hasattr(out, "numpy") else out)]


def compared(ours: Sequence[Sequence[Array]], theirs: Sequence[Sequence[Array]]) -> tuple[float, float]:
    """Error and signal-to-noise ratio in dB of the worst output, over all samples (see `Answer`).

    Parameters
    ----------
    ours, theirs
        Outputs in order, for each sample.

    Raises
    ------
    ValueError
        If an output has another shape, or numbers where the reference has none.
    """
    error, snr = 0.0, np.inf
    for i, pairs in enumerate(zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)):
        mine, wanted = (np.stack(side) for side in pairs)
        if mine.shape != wanted.shape:
            raise ValueError(f"output {i} has shape {mine.shape[1:]}, not {wanted.shape[1:]}")
        if wanted.dtype.kind != "f":
            error = max(error, float(np.mean(mine != wanted)))
            continue
        if not np.array_equal(np.isfinite(mine), np.isfinite(wanted)):
            raise ValueError(f"output {i} is not finite at other places")
        finite = np.isfinite(wanted)
        signal = wanted[finite].astype(np.float64)
        noise = mine[finite] - signal
        error = max(error, float(np.abs(noise).max(initial=0) / max(np.abs(signal).max(initial=0), 1e-30)))
        power = float(np.square(noise).sum())
        if power:
            snr = min(snr, 10 * np.log10(max(float(np.square(signal).sum()), 1e-300) / power))
    return error, float(snr)


def ratios(runners: Mapping[str, Runner], inputs: Sequence[Array], rounds: int) -> tuple[dict[str, float], float]:
    """Time of each runner divided by the first one's, taken round by round, and the first one's milliseconds.

    In a round every runner has a turn of at least TURN_SEC, in rotating order; its value is the median run.
    """
    names = list(runners)
    seen: dict[str, list[float]] = {name: [] for name in names}
    for runner in runners.values():
        runner(inputs)
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            seen[name].append(_turn(runners[name], inputs))
    first = seen[names[0]]
    by_round = {name: statistics.median(a / b for a, b in zip(seen[name], first, strict=True)) for name in names[1:]}
    return by_round, 1000 * statistics.median(first)


def _turn(runner: Runner, inputs: Sequence[Array]) -> float:
    runs: list[float] = []
    begun = time.perf_counter()
    while len(runs) < 3 or time.perf_counter() - begun < TURN_SEC:
        start = time.perf_counter()
        runner(inputs)
        runs.append(time.perf_counter() - start)
    return statistics.median(runs)


def work(job: Job, answer: Answer, save: Callable[[], None]) -> None:
    """All steps in order; what is known goes into `answer`."""
    from tvm_mpq.pipeline import Options, build_network, inspect_network

    def step(name: str) -> None:
        answer.step = name
        save()

    step("inspect")
    with tempfile.TemporaryDirectory() as work_folder:
        common: dict[str, Any] = {"input_shapes": dict(job.shapes) or None, "workers": 1, "threads": 1}
        common |= {"db": Path(work_folder, "db.sqlite"), "say": answer.said.append}
        report = inspect_network(Options(job.file, **common))
        totals = report["totals"]
        answer.operators, answer.quantizable, answer.macs = totals["operators"], totals["quantizable"], totals["macs"]
        specs = report["inputs"]
        drawn = {
            name: samples(job.fill.get(name, job.fill.get("*", "normal")), shape, dtype, CALIBRATION + EVALUATION, seed)
            for seed, (name, (shape, dtype)) in enumerate(specs.items())
        }
        calibration = {name: x[:CALIBRATION] for name, x in drawn.items()}
        evaluation = [[x[i, ...] for x in drawn.values()] for i in range(CALIBRATION, CALIBRATION + EVALUATION)]

        step("reference")
        reference = OnnxRuntime(job.file) if job.file.endswith(".onnx") else LiteRT(job.file)
        answer.reference = reference.name
        wanted = [reference(inputs) for inputs in evaluation]

        runners: dict[str, Runner] = {"reference": reference}
        kept = []
        for precision in ("fp32", "w8a8"):
            step(f"build {precision}")
            begun = time.perf_counter()
            result = build_network(Options(job.file, data=calibration, **common), uniform=precision)
            seconds = round(time.perf_counter() - begun, 1)
            kept.append(result)  # its folder lives as long
            step(f"run {precision}")
            runners[precision] = Library(result.folder)
            error, snr = compared([runners[precision](inputs) for inputs in evaluation], wanted)
            if precision == "fp32":
                answer.build_sec, answer.error = seconds, error
            else:
                answer.w8a8_sec, answer.snr_db = seconds, min(snr, 200.0)
        if job.rounds:
            step("time")
            slower, answer.reference_ms = ratios(runners, evaluation[0], job.rounds)
            answer.slower_fp32, answer.slower_w8a8 = slower["fp32"], slower["w8a8"]
    answer.step = "done"


def main() -> None:
    from tvm_mpq.errors import MPQError

    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    target, answer = Path(sys.argv[2]), Answer()
    if job.litert:
        sys.path.append(job.litert)  # after the project's own packages

    def save() -> None:
        target.write_text(json.dumps(asdict(answer)), encoding="utf-8")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            work(job, answer, save)
        except MPQError as e:
            text = f"{type(e).__name__}: {e}"
            answer.refused, answer.fault = ("", text) if "\n" in text else (text, "")
        except Exception as e:  # noqa: BLE001 - whatever else comes out is what is looked for here
            answer.fault = f"{type(e).__name__}: {e}"
            traceback.print_exc()
    save()


if __name__ == "__main__":
    main()
