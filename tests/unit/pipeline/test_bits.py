"""The method freebits as `search` and `compare` run it, on a machine that is simulated: nothing is measured."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

from mpq_testing.onnx_models import OnnxNet  # noqa: E402 - after the skip
from tvm_mpq.errors import DataError, InvalidValueError, MissingDependencyError  # noqa: E402
from tvm_mpq.pipeline.compare import compare  # noqa: E402
from tvm_mpq.pipeline.options import Options  # noqa: E402
from tvm_mpq.pipeline.search import search  # noqa: E402
from tvm_mpq.training import settings  # noqa: E402


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    short = functools.partial(settings.BitSearchSettings, weakest=0.03, updates=60, batch=8, gate_rate=0.2)
    monkeypatch.setattr(settings, "BitSearchSettings", short)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = OnnxNet({"image": (1, 3, 8, 8)})
    y = net.relu(net.conv("image", 3, 16, name="stem"))
    left, right = net.conv(y, 16, 16, 1, name="left"), net.conv(y, 16, 16, 1, name="right")
    y = net.relu(net.op("Add", left, right))
    folder = tmp_path_factory.mktemp("bits")
    onnx.save(net.model(net.classifier(y, 16)), str(folder / "net.onnx"))
    return folder / "net.onnx"


def options(model: Path, said: list[str] | None = None, **more: object) -> Options:
    image = np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32)
    given = {
        "data": {"image": image}, "db": model.parent / "latency.db", "rounding": "nearest", "sensitivity_samples": 2,
        "calibration_samples": 4, "verify_import": False, "latency_source": "mpic", "method": "freebits", **more
    }  # fmt: skip
    return Options(str(model), say=None if said is None else said.append, **given)  # type: ignore[arg-type]


def test_budgets_are_kept_and_bits_learned_once(model: Path) -> None:
    said: list[str] = []
    report = compare(options(model, said), methods=("ilp", "freebits"), budgets=(0.9, 0.7), measure=False)
    assert said.count("learning bits") == 1  # for both budgets
    exact, found = ([r for r in report["rows"] if r["method"] == m] for m in ("ilp", "freebits"))
    for row, best in zip(found, exact, strict=True):
        assert row["ratio"] is not None and best["ratio"] is not None and row["loss"] is not None
        assert row["ratio"] <= row["budget"] and row["loss"] >= best["loss"]
        assert set(row["plan"]) == {"stem", "left", "right", "fc"} and row["evaluations"] > 1
    assert found[0]["loss"] <= found[1]["loss"]  # type: ignore[operator]

    again: list[str] = []
    points = search(options(model, again), points=3, axis="latency")["points"]
    assert "learning bits" not in again  # the database has them
    assert any(p["evaluations"] > 0 for p in points if not p["name"])

    search(options(model, again, regulariser="latency"), points=2, axis="latency")
    assert again.count("learning bits") == 1

    told: list[int] = []
    fewer = options(model, again, updates=3, progress=lambda d, of, what: told.append(of))
    search(fewer, points=2, axis="latency")
    assert again.count("learning bits") == 2 and 3 in told


def test_what_is_missing_is_said_in_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="method freebits needs data of the network's own kind; give them with --data"):
        search(options(model, data=None), points=2, axis="latency")
    with pytest.raises(InvalidValueError, match=r"regulariser must be one of bitops, latency \(got 'size'\)"):
        options(model, regulariser="size")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        MissingDependencyError, match=r"method freebits needs PyTorch; .*pip install 'tvm-mpq\[torch\]'"
    ):
        search(options(model), points=2, axis="latency")


def test_all_methods_are_those_that_can(model: Path) -> None:
    said: list[str] = []
    asked = options(model, said, data=None, method="ilp", evaluations=50)
    report = compare(asked, methods=("all",), budgets=(0.9,), measure=False)
    assert "freebits" not in {r["method"] for r in report["rows"]} and len(report["rows"]) > 3
    assert sum(line.startswith("left out: method freebits needs data") for line in said) == 1
