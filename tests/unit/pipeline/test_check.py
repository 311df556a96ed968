"""`check`: a built folder beside its report, and beside another folder. Times are made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvm_mpq as mpq
from mpq_testing.onnx_models import OnnxNet
from tvm_mpq import cli, targets
from tvm_mpq.calibrate.data import load_dataset
from tvm_mpq.errors import DataError, FileFormatError, InvalidValueError, MissingFileError, TargetMismatchError
from tvm_mpq.pipeline import Options, build_network, check
from tvm_mpq.pipeline.built_folder import open_folder
from tvm_mpq.pipeline.verified_outputs import VerifiedOutputs, classes
from tvm_mpq.tuning.devices.pool import ThisMachine
from tvm_mpq.tuning.measure.networks import NetworkJob, WholeNetworkLatency

IMAGES = 20
STEADY = {"median": 2.0, "low": 1.96, "high": 2.04, "rounds": 15}


class Kept(ThisMachine):
    """Its process serves all checks of this file, each of which would otherwise wait seconds for one."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="module")
def machine() -> Iterator[Kept]:
    kept = Kept(1)
    yield kept
    ThisMachine.close(kept)


@pytest.fixture(autouse=True)
def one_process(machine: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "ThisMachine", lambda threads: {1: machine}[threads])


def data(folder: Path) -> Path:
    rng = np.random.default_rng(3)
    path = folder / "eval.npz"
    np.savez(path, x=rng.normal(size=(IMAGES, 3, 6, 6)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `optimize` leaves it: it has two of twenty images wrong, the first and the last."""
    folder = tmp_path_factory.mktemp("classifier")
    net = OnnxNet({"x": (1, 3, 6, 6)})
    onnx.save(net.model(net.classifier(net.conv("x", 3, 4), 4)), str(folder / "net.onnx"))
    return made(folder)


@pytest.fixture(scope="module")
def map_of_values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("values")
    net = OnnxNet({"x": (1, 3, 6, 6)})
    onnx.save(net.model(net.conv("x", 3, 3)), str(folder / "net.onnx"))
    return made(folder)


def made(folder: Path) -> Path:
    options = Options(folder / "net.onnx", db=folder / "latency.db", verify_import=False)
    result = build_network(options, uniform="fp32")
    out = folder / "out"
    result.save(out)
    built = open_folder(out)
    dataset = load_dataset(data(folder), built.inputs)
    outputs = [result.run(sample) for sample in dataset]
    known = VerifiedOutputs.of(outputs, outputs, classifies=built.classifies)
    if built.classifies:
        assert len(set(known.fp32)) > 1, "a network that always answers the same tests nothing"
        known.fp32[[0, -1]] = (known.fp32[[0, -1]] + 1) % 10
    known.save(out)
    report = {
        "operators": [],
        "plan": {},
        "latency_ms": {"mixed": 0.5},
        "device": targets.device_identity(targets.local_row(), 1).key,
        "sentinel_ratio": STEADY,
        "provenance": {
            "created": "",
            "command": "",
            "versions": {"TVM": "0.1"},
            "digests": {"evaluation data": dataset.fingerprint},
            "eval_file": str(folder / "eval.npz"),
        },
    }
    (out / "report.json").write_text(json.dumps(report))
    return out


def changed(folder: Path, tmp_path: Path, **report: Any) -> Path:
    """A copy whose report says something else."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    found = json.loads((copy / "report.json").read_text())
    (copy / "report.json").write_text(json.dumps({**found, **report}))
    return copy


def timed(
    monkeypatch: pytest.MonkeyPatch, *in_sentinels: float, scatter: float = 0.0, busy: tuple[str, ...] = ()
) -> list[int]:
    """Networks take so many times the sentinel; returns the numbers of rounds asked for."""
    asked: list[int] = []

    def measure(session: Any, jobs: list[NetworkJob], settings: Any, *, sentinel: Path) -> list[WholeNetworkLatency]:
        asked.append(settings.repeats)
        sentinels = {i: 7.0 + i % 3 for i in range(settings.repeats)}
        spread = {i: 1 + scatter * (i % 5 - 2) for i in sentinels}
        rounds = [{i: factor * us * spread[i] for i, us in sentinels.items()} for factor in in_sentinels]
        return [WholeNetworkLatency(1.0, 0.0, 9, 1.0, 1.0, 1, found, sentinels) for found in rounds[: len(jobs)]]

    monkeypatch.setattr(check, "measure_networks", measure)
    monkeypatch.setattr(check, "device_health", lambda pool, device: {"warnings": busy})
    return asked


@pytest.mark.parametrize(
    ("in_sentinels", "limit", "status", "code"),
    [
        (2.0, 1.05, "holds", 0),
        (2.2, 1.05, "worse", 3),
        (1.0, 1.05, "holds", 0),
        (2.1, 1.05, "unsettled", 4),  # between 2.1 / 2.04 and 2.1 / 1.96
        (2.0, 1.019, "unsettled", 4),
    ],
)
def test_time_is_compared_by_the_sentinel(
    in_sentinels: float,
    limit: float,
    status: str,
    code: int,
    classifier: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever the sentinel itself takes."""
    asked = timed(monkeypatch, in_sentinels)
    with pytest.raises(SystemExit) if code else _nothing() as caught:
        cli.main(["check", str(classifier), "--latency", str(limit), "--json", "--rounds", "9"])
    report = json.loads(capsys.readouterr().out)
    assert (report["status"], report["latency"]["status"], asked) == (status, status, [9])
    assert code == 0 or caught.value.code == code
    ratio = report["latency"]["ratio"]
    wanted = (in_sentinels / 2.04, in_sentinels / 2, in_sentinels / 1.96)
    assert (ratio["low"], ratio["median"], ratio["high"]) == pytest.approx(wanted)
    assert report["notes"] and "TVM 0.1" in report["notes"][0]


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_a_busy_machine_settles_nothing(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the sentinel; two folders in turns are slowed alike."""
    timed(monkeypatch, 3.0, 2.0, busy=("load 9.0 on 2 cores",))
    found = mpq.check(classifier, latency=1.05)["latency"]
    assert (found["status"], found["doubts"]) == ("unsettled", ["the device had load 9.0 on 2 cores now"])
    assert mpq.check(classifier, latency=1.05, against=classifier)["status"] == "worse"
    timed(monkeypatch, 2.0)
    copy = changed(classifier, tmp_path, health={"start": {"warnings": ["governor powersave"]}, "end": {}})
    with pytest.raises(SystemExit) as caught:
        cli.main(["check", str(copy), "--latency", "1.05"])
    assert caught.value.code == 4 and "powersave when the report was made" in capsys.readouterr().out


def test_two_folders_are_timed_in_turns(
    classifier: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed(monkeypatch, 3.0, 2.0, scatter=0.1)
    with pytest.raises(SystemExit) as caught:
        cli.main(["check", str(classifier), "--against", str(classifier), "--latency", "1.49"])
    assert caught.value.code == 3, "a scatter that both share is no doubt"
    printed = " ".join(capsys.readouterr().out.split())
    assert "verdict: got worse" in printed and "1.500 of what it was (1.500 to 1.500, 45 rounds" in printed


def test_answers_are_the_same(classifier: Path, map_of_values: Path, machine: Kept) -> None:
    before = machine.closed
    report = mpq.check(classifier, drop=0.0)
    assert machine.closed == before + 1, "a check leaves no process behind"
    found = report["accuracy"]
    assert (found["status"], found["metric"], found["samples"]) == ("holds", "agreement", IMAGES)
    assert found["now"] == found["then"] == pytest.approx(100 * 18 / IMAGES)
    found = mpq.check(map_of_values, drop=0.0)["accuracy"]
    assert (found["status"], found["metric"], found["drop"]) == ("holds", "relative_error", 0.0)


def test_answers_that_got_worse_are_counted(classifier: Path, map_of_values: Path, tmp_path: Path) -> None:
    """Which of the two was right is what `fp32` says: what was answered then is put right, or wrong, here."""
    copy = changed(classifier, tmp_path)
    known = VerifiedOutputs.load(copy)
    known.built[0] = known.fp32[0]  # was right, is wrong now
    known.built[4:6] = (known.fp32[4:6] + 1) % 10  # were wrong, are right now
    known.save(copy)
    found = mpq.check(copy, drop=0.0)["accuracy"]
    assert (found["better"], found["worse"], found["drop"], found["status"]) == (2, 1, -5.0, "holds")
    known.built[4:6] = known.fp32[4:6]
    known.save(copy)
    found = mpq.check(copy, drop=0.0)["accuracy"]
    assert (found["better"], found["worse"], found["drop"], found["status"]) == (0, 1, 5.0, "worse")
    assert mpq.check(copy, drop=5.0)["accuracy"]["status"] == "holds"
    shutil.rmtree(copy)
    copy = changed(map_of_values, tmp_path)
    known = VerifiedOutputs.load(copy)
    VerifiedOutputs(False, known.fp32 * np.float32(1.01), known.built).save(copy)
    report = mpq.check(copy, drop=0.5)
    assert report["status"] == "worse" and report["accuracy"]["drop"] == pytest.approx(100 * 0.01 / 1.01, rel=1e-3)


def test_labels_decide_where_there_are_some(classifier: Path, tmp_path: Path) -> None:
    inputs = np.load(classifier.parent / "eval.npz")
    model = mpq.load_model(classifier)
    labels = classes([model.run(x[None]) for x in inputs["x"]]).astype(np.int64)
    labels[3] += 1
    path = tmp_path / "labelled.npz"
    np.savez(path, x=inputs["x"], labels=labels)
    with pytest.raises(DataError, match="does not hold the data that the report stands on"):
        mpq.check(classifier, drop=0.0, data=path)
    found = mpq.check(classifier, drop=0.0, data=path, against=classifier)["accuracy"]
    assert (found["metric"], found["now"], found["samples"]) == ("top1", 95.0, IMAGES)


def test_what_cannot_be_checked(classifier: Path, map_of_values: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetMismatchError, match="times of another device tell nothing"):
        mpq.check(changed(classifier, tmp_path, device="Z80"), latency=1.05)
    shutil.rmtree(tmp_path / "copy")
    with pytest.raises(FileFormatError, match="holds no time beside the sentinel"):
        mpq.check(changed(classifier, tmp_path, sentinel_ratio=None), latency=1.05)
    (tmp_path / "copy" / "verified.npz").write_bytes((map_of_values / "verified.npz").read_bytes())
    with pytest.raises(FileFormatError, match="of another network"):
        mpq.check(tmp_path / "copy", drop=0.0)
    (tmp_path / "copy" / "verified.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(FileFormatError, match="not what tvm-mpq optimize writes"):
        mpq.check(tmp_path / "copy", drop=0.0)
    (tmp_path / "copy" / "verified.npz").unlink()
    with pytest.raises(MissingFileError, match=r"no verified\.npz"):
        mpq.check(tmp_path / "copy", drop=0.0)
    with pytest.raises(MissingFileError, match="with --against needs evaluation data"):
        mpq.check(classifier, drop=0.0, against=classifier)
    for wrong, text in (({}, "nothing to check"), ({"latency": 0.0}, "above 0"), ({"drop": -1.0}, "0 or more")):
        with pytest.raises(InvalidValueError, match=text):
            mpq.check(classifier, **wrong)
