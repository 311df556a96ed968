"""Rows of the accuracy comparison: names of bits, commands, answers of workers, the paired interval."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, Any]]:
    folders = [str(BENCHMARKS), str(BENCHMARKS / "peers_accuracy")]
    sys.path[:0] = folders
    yield {name: importlib.import_module(name) for name in ("accuracy_rows", "worker")}
    for folder in folders:
        sys.path.remove(folder)


@pytest.fixture
def parts(modules: dict[str, Any]) -> Any:
    return modules["accuracy_rows"]


@pytest.fixture
def worker(modules: dict[str, Any]) -> Any:
    return modules["worker"]


@pytest.mark.parametrize("text", ["w4a8", "w2a4-edges8", "w8a8"])
def test_bits_by_name(parts: Any, text: str) -> None:
    assert parts.bits(text).name == text


@pytest.mark.parametrize("text", ["w1a8", "w4a9", "w4", "w4a8-edges", "w4a8,w8a8", ""])
def test_bits_refused(parts: Any, text: str) -> None:
    with pytest.raises(ValueError, match="w4a8 or w2a4-edges8"):
        parts.bits(text)


def test_every_worker_is_there(parts: Any) -> None:
    assert {p.worker for p in parts.PEERS.values()} == {p.name for p in parts.WORKERS.glob("run_*.py")}


def test_rows_begin_with_fp32_once_a_network(parts: Any) -> None:
    found = parts.rows(["a", "b"], ["ours", "aimet"], [parts.bits("w8a8"), parts.bits("w4a8")])
    assert [r.network for r in found if r.peer == "fp32"] == ["a", "b"]
    assert found[0].who == "fp32"
    assert len({r.key for r in found}) == len(found)
    assert "b/w4a8/aimet adaround" in {r.key for r in found}


def test_the_worker_reads_the_command(parts: Any, worker: Any, tmp_path: Path) -> None:
    x = np.arange(10, dtype=np.float32).reshape(10, 1)
    calibration, evaluation = tmp_path / "c.npz", tmp_path / "e.npz"
    np.savez(calibration, image=x)
    np.savez(evaluation, image=x[:3], labels=np.array([0, 1, 2]))
    row = parts.Row("net", "aimet", "adaround", parts.bits("w2a4-edges8"))
    effort = parts.Effort(iterations=7, step_images=2, rounding_images=4, seed=3)
    call = parts.command(row, "python", (tmp_path / "n.onnx", calibration, evaluation), effort)
    assert call[0] == "python" and Path(call[1]).name == "run_aimet.py"
    task = worker.parse(call[2:], {"adaround": None})
    assert (task.weight_bits, task.activation_bits, task.edges8, task.iterations, task.seed) == (2, 4, True, 7, 3)
    assert task.input_name == "image" and len(task.calibration) == 10
    # Four images, the first and the last among them, two a step.
    assert [part[:, 0].tolist() for part in task.steps()] == [[0, 3], [6, 9]]
    assert [len(part) for part in task.batches(4)] == [4, 4, 2]
    assert [len(part) for part in task.evaluation_batches(2)] == [2, 1]
    plain = parts.Row("net", "aimet", "adaround", parts.bits("w4a8"))
    call = parts.command(plain, "python", (tmp_path / "n.onnx", calibration, evaluation), parts.Effort())
    task = worker.parse(call[2:], {"adaround": None})
    assert not task.edges8 and task.iterations is None
    assert sum(len(part) for part in task.steps()) == 10


def test_answers(parts: Any) -> None:
    assert parts.answer('progress\n{"right": 1}\n', 0, "") == {"right": 1}
    failed = parts.answer("", 3, "Traceback\nKeyError: 'x'\n\n")
    assert failed == {"reason": "failed with exit code 3: KeyError: 'x'"}
    assert parts.answer('{"right": 1}', 1, "")["reason"] == "failed with exit code 1: no message"
    assert parts.answer("", 0, "")["reason"].startswith("failed with exit code 0")


def answered(worker: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, method: Any) -> dict[str, Any]:
    """What `run` prints for three images with labels 0, 1, 1."""
    path = tmp_path / "images.npz"
    np.savez(path, image=np.zeros((3, 1), np.float32), labels=np.array([0, 1, 1]))
    line = ["run", "n.onnx", str(path), str(path), "--method", "m", "--weight-bits", "4", "--activation-bits", "8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", line)
        patch.setattr(sys, "stdout", sys.stdout)  # `run` exchanges it
        worker.run({"m": method})
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_line_that_a_worker_prints(worker: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def method(task: Any) -> Any:
        sys.stdout.write("progress of a peer, which must not be taken for the answer\n")
        return worker.Outcome(np.array([[2, 1], [0, 1], [5, 0]], np.float32), "settings")

    found = answered(worker, capsys, tmp_path, method)
    assert found["predictions"] == [0, 1, 0] and (found["right"], found["images"]) == (2, 3)
    assert found["settings"] == "settings" and found["seconds"] >= 0


def test_what_a_peer_cannot_do_is_a_reason(worker: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def method(task: Any) -> Any:
        raise worker.CannotError("no 4-bit weights")

    assert answered(worker, capsys, tmp_path, method) == {"reason": "no 4-bit weights"}


def test_logits_must_be_finite(worker: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def method(task: Any) -> Any:
        return worker.Outcome(np.full((3, 2), np.nan, np.float32), "")

    with pytest.raises(ValueError, match="finite"):
        answered(worker, capsys, tmp_path, method)


def test_change_counts_pairs(parts: Any) -> None:
    labels = [0] * 100
    reference = [0] * 90 + [1] * 10  # 90 right
    predictions = [1] * 8 + [0] * 82 + [0] * 3 + [1] * 7  # 8 lost, 3 won: 85 right
    found = parts.change(predictions, reference, labels)
    assert found.points == -5.0
    assert found.half_width == pytest.approx(100 * 1.96 * ((11 - 25 / 100) / 100**2) ** 0.5)
    same = parts.change(reference, reference, labels)
    assert (same.points, same.half_width) == (0, 0)


def test_cells(parts: Any) -> None:
    entry = {"right": 3, "images": 4, "seconds": 1.6, "settings": "s", "predictions": [0, 0, 0, 1]}
    reference = dict(entry, predictions=[0, 0, 0, 0])
    labels = [0, 0, 0, 0]
    assert parts.cells(entry, reference, labels) == ["3/4", "75.00 %", "-25.00 ± 42.44", "2", "s"]
    assert parts.cells(entry, {"reason": "x"}, labels)[2] == "-"
    assert parts.cells({"reason": "why"}, reference, labels) == ["-", "-", "-", "-", "why"]
