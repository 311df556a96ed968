"""Whether a built folder is still as fast and as accurate as its report says, or as another folder is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from tvm_mpq import targets
from tvm_mpq.calibrate.data import Dataset, load_dataset
from tvm_mpq.errors import DataError, FileFormatError, InvalidValueError, MissingFileError, TargetMismatchError
from tvm_mpq.execute import network
from tvm_mpq.execute.accuracy import check_labels, require_finite
from tvm_mpq.pipeline.built_folder import BuiltFolder, open_folder
from tvm_mpq.pipeline.context import device_health, open_boards
from tvm_mpq.pipeline.verified_outputs import Outputs, VerifiedOutputs, classes, errors
from tvm_mpq.report.checked import HOLDS, UNSETTLED, WORSE, CheckedAccuracy, CheckedLatency, CheckReport
from tvm_mpq.report.contract import OptimizeReport, SpeedupFigures
from tvm_mpq.report.stored import read_report
from tvm_mpq.schema import DeviceIdentity
from tvm_mpq.tuning.devices.boards import Boards
from tvm_mpq.tuning.devices.pool import DevicePool, ThisMachine
from tvm_mpq.tuning.devices.session_base import Session
from tvm_mpq.tuning.measure import presets
from tvm_mpq.tuning.measure.networks import NetworkJob, measure_networks
from tvm_mpq.tuning.measure.paired_ratio import FEWEST, RatioOfRounds, paired_ratio

ROUNDS = 45
"""Of a check: their interval is about half as wide as that of the rounds a report stands on."""

LEAST_ERROR = 0.01
"""Points of relative error that are no loss: float operators of another TVM may differ in their last digits."""

SEVERITY = (HOLDS, UNSETTLED, WORSE)


@dataclass(frozen=True)
class Wanted:
    """What is checked. latency: largest ratio of time now to time then; drop: points that may be lost; None = not."""

    latency: float | None = None
    drop: float | None = None
    rounds: int = ROUNDS

    def __post_init__(self) -> None:
        if self.latency is None and self.drop is None:
            raise InvalidValueError("nothing to check: give --latency RATIO, such as 1.05, --accuracy, or both")
        if self.latency is not None and not (math.isfinite(self.latency) and self.latency > 0):
            raise InvalidValueError(f"--latency must be above 0, such as 1.05 (got {self.latency:g})")
        if self.drop is not None and not (math.isfinite(self.drop) and self.drop >= 0):
            raise InvalidValueError(f"--drop must be 0 or more points (got {self.drop:g})")
        if self.rounds < FEWEST:
            raise InvalidValueError(f"--rounds must be {FEWEST} or more, or no interval holds (got {self.rounds})")


def check_folder(
    folder: Path,
    wanted: Wanted,
    *,
    data: Path | None = None,
    against: Path | None = None,
    rpc: str | None = None,
    key: str | None = None,
) -> CheckReport:
    """Compare `folder` with its own report, or with the folder `against`, on the device it was measured on.

    data: evaluation data, an `.npz`; None = the file that the report names. rpc, key: the device, as of `run_folder`.

    Raises
    ------
    MissingFileError, FileFormatError
        If a folder holds no built library, or its report or answers are missing or broken.
    TargetMismatchError
        If this is not the device of the report.
    DataError
        If the data are not those of the report, do not fit, or outputs hold NaN or infinity.
    """
    built = open_folder(folder)
    other = None if against is None else _other(built, against)
    report = read_report(folder / "report.json") if other is None else None
    subject = None if wanted.drop is None else _subject(built, report, data)
    pool: DevicePool = ThisMachine(built.threads)
    row = targets.resolve(built.plan.tvm_target())
    if rpc is not None:
        pool = open_boards(rpc, key, built.threads, row, None)
    else:
        targets.require_local(row)
    result: CheckReport = {
        "folder": str(folder),
        "against": f"{folder / 'report.json'}" if other is None else str(other.path),
        "status": HOLDS,
        "notes": [] if report is None else _notes(report),
    }
    try:
        if wanted.latency is not None:
            doubts = [] if report is None else _doubts(report, pool, _same_device(report, pool, built.threads, row))
            result["latency"] = pool.do(lambda session: _latency(session, pool, built, other or report, wanted, doubts))
        if subject is not None:
            outputs = pool.do(lambda session: network.run_library(session, built.library, subject.inputs))
            before = None
            if other is not None:
                before = pool.do(lambda session: network.run_library(session, other.library, subject.inputs))
            require_finite(outputs, str(folder))
            result["accuracy"] = subject.compare(outputs, before, wanted.drop or 0.0)
    finally:
        pool.close()
    parts = [part["status"] for part in (result.get("latency"), result.get("accuracy")) if part is not None]
    result["status"] = max(parts, key=SEVERITY.index)
    return result


def _other(built: BuiltFolder, against: Path) -> BuiltFolder:
    other = open_folder(against)
    if (other.inputs, other.threads) != (built.inputs, built.threads):
        raise InvalidValueError(
            f"--against needs a folder of the same inputs and threads: {str(built.path)!r} takes {built.inputs} on "
            f"{built.threads} (got {other.inputs} on {other.threads})"
        )
    return other


def _notes(report: OptimizeReport) -> list[str]:
    then = report.get("provenance", {}).get("versions", {}).get("TVM")
    now = str(tvm.__version__)
    return [f"the report was made with TVM {then}, this is {now}"] if then not in (None, now) else []


def _same_device(report: OptimizeReport, pool: DevicePool, threads: int, row: targets.TargetRow) -> DeviceIdentity:
    """The device at hand. Raises TargetMismatchError where it is not that of the report."""
    here = pool.board.identity(threads) if isinstance(pool, Boards) else targets.device_identity(row, threads)
    if report.get("device") != here.key:
        raise TargetMismatchError(
            f"the report was measured on {report.get('device')!r}, and times of another device tell nothing (this is "
            f"{here.key!r}); optimize here, or compare two folders with --against FOLDER"
        )
    return here


def _doubts(report: OptimizeReport, pool: DevicePool, device: DeviceIdentity) -> list[str]:
    """Why times of two days may not be compared: work of others slows a network and the sentinel differently."""
    readings = report.get("health")
    before = readings["start"].get("warnings", []) if readings else []
    now = device_health(pool, device).get("warnings", [])
    when = (("when the report was made", before), ("now", now))
    return [f"the device had {', '.join(found)} {time}" for time, found in when if found]


def _latency(
    session: Session,
    pool: DevicePool,
    built: BuiltFolder,
    then: BuiltFolder | OptimizeReport | None,
    wanted: Wanted,
    doubts: list[str],
) -> CheckedLatency:
    sample = load_dataset(None, built.inputs).sample(0)
    inputs = [sample[name] for name in built.inputs]
    folders = [built, then] if isinstance(then, BuiltFolder) else [built]
    # What scatters widens the interval, and is no reason to refuse.
    settings = dataclasses.replace(
        presets.NETWORKS, repeats=wanted.rounds, retakes=0, max_relative_iqr=1e6, max_drift=1e6
    )
    jobs = [NetworkJob(folder.library, inputs) for folder in folders]
    times = measure_networks(session, jobs, settings, sentinel=pool.sentinel())
    assert wanted.latency is not None
    now = times[0]
    then_ms: float | None
    if isinstance(then, BuiltFolder):
        ratio, then_ms, pairing = _paired(now.rounds_us, times[1].rounds_us), times[1].median_us / 1000, "rounds"
        figures = _figures(ratio, 1.0, 1.0, 1.0)
    else:
        assert then is not None
        before = then.get("sentinel_ratio")
        if before is None:
            raise FileFormatError(
                f"{str(built.path / 'report.json')!r} holds no time beside the sentinel, by which days compare; "
                "optimize again, or give --against FOLDER"
            )
        ratio, pairing, then_ms = _paired(now.rounds_us, now.sentinel_us), "sentinel", then["latency_ms"].get("mixed")
        figures = _figures(ratio, before["median"], before["low"], before["high"])
    status = HOLDS if figures["high"] <= wanted.latency else WORSE if figures["low"] > wanted.latency else UNSETTLED
    return {
        "status": UNSETTLED if doubts else status,
        "doubts": doubts,
        "limit": wanted.latency,
        "ratio": figures,
        "then_ms": then_ms,
        "now_ms": now.median_us / 1000,
        "pairing": pairing,
    }


def _paired(now: Mapping[int, float], beside: Mapping[int, float]) -> RatioOfRounds:
    found = paired_ratio(now, beside)
    assert found is not None, "as many rounds as were asked for"
    return found


def _figures(now: RatioOfRounds, median: float, low: float, high: float) -> SpeedupFigures:
    """Now over then: least over most, and most over least."""
    return {"median": now.median / median, "low": now.low / high, "high": now.high / low, "rounds": now.rounds}


@dataclass(frozen=True)
class _Subject:
    """Data that answers are compared on. inputs: of each sample, in order; known: what was answered then."""

    inputs: list[list[npt.NDArray[Any]]]
    labels: npt.NDArray[np.int64] | None
    classifies: bool
    known: VerifiedOutputs | None

    def compare(self, now: Outputs, other: Outputs | None, allowed: float) -> CheckedAccuracy:
        """other: of the folder that is compared with; None = what is known."""
        if not self.classifies:
            return self._errors(now, other, allowed)
        answers = classes(now)
        before = classes(other) if other is not None else self._known().built
        if len(before) != len(answers):
            raise DataError(f"the report stands on {len(before)} answers (got data with {len(answers)})")
        truth = before if self.labels is None else self.labels[: len(answers)]
        if self.labels is None and other is None:
            truth = self._known().fp32
        right, was_right = answers == truth, before == truth
        better, worse = int((right & ~was_right).sum()), int((was_right & ~right).sum())
        count = len(answers)
        drop = 100 * (worse - better) / count
        return {
            "status": HOLDS if drop <= allowed else WORSE,
            "limit": allowed,
            "metric": "agreement" if self.labels is None else "top1",
            "then": 100 * float(was_right.mean()),
            "now": 100 * float(right.mean()),
            "drop": drop,
            "better": better,
            "worse": worse,
            "samples": count,
        }

    def _errors(self, now: Outputs, other: Outputs | None, allowed: float) -> CheckedAccuracy:
        if other is not None:
            then, found = np.zeros(len(now)), errors(now, other)
        else:
            known = self._known()
            if known.fp32.shape[1:] != now[0].shape or len(known.fp32) > len(now):
                raise DataError("the report stands on other outputs; optimize again, or give --against FOLDER")
            then, found = known.built, errors(now[: len(known.fp32)], known.fp32)
        drop = 100 * float(found.mean() - then.mean())
        return {
            "status": HOLDS if drop <= allowed + LEAST_ERROR else WORSE,
            "limit": allowed,
            "metric": "relative_error",
            "then": 100 * float(then.mean()),
            "now": 100 * float(found.mean()),
            "drop": drop,
            "better": 0,
            "worse": 0,
            "samples": len(found),
        }

    def _known(self) -> VerifiedOutputs:
        assert self.known is not None
        return self.known


def _subject(built: BuiltFolder, report: OptimizeReport | None, data: Path | None) -> _Subject:
    """The data, as the report or the user names them, and what was answered then where a report is compared with."""
    known = None if report is None else VerifiedOutputs.load(built.path)
    dataset = _data(built, report, data)
    check_labels(dataset.labels, classifies=built.classifies)
    if known is not None and known.classifies != built.classifies:
        raise FileFormatError(f"the answers kept in {str(built.path)!r} are of another network; optimize again")
    inputs = [[sample[name] for name in built.inputs] for sample in dataset.samples()]
    return _Subject(inputs, dataset.labels, built.classifies, known)


def _data(built: BuiltFolder, report: OptimizeReport | None, data: Path | None) -> Dataset:
    if report is None:
        if data is None:
            raise MissingFileError("--accuracy with --against needs evaluation data: give them with --data FILE")
        return load_dataset(data, built.inputs)
    stood_on = report.get("provenance")
    named = stood_on.get("eval_file", "") if stood_on else ""
    synthetic = report.get("calibration", {}).get("synthetic") and report["accuracy"]["on_calibration_data"]
    if data is None and not named and not synthetic:
        raise MissingFileError("--accuracy needs the evaluation data of the report: give them with --data FILE")
    dataset = load_dataset(data or named or None, built.inputs)
    if not stood_on or dataset.fingerprint != stood_on["digests"].get("evaluation data"):
        raise DataError(
            f"{str(data or named)!r} does not hold the data that the report stands on; give those with --data, or "
            "compare two folders with --against FOLDER"
        )
    return dataset
