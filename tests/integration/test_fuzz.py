"""A sample of `benchmarks/fuzz.py`: some hundred damaged inputs, each refused in one line or taken."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mpq_testing.onnx_models import OnnxNet
from tvm_mpq.pipeline import Options, build_network
from tvm_mpq.pipeline.database import export_records
from tvm_mpq.schema import LatencyKey, LatencyRecord
from tvm_mpq.tuning.database.latencies import LatencyDatabase

ROOT = Path(__file__).parents[2]
CASES = {"npz": 100, "plan": 100, "report": 60, "database": 60, "records": 60, "onnx": 40, "tflite": 40, "rpc": 40}
SEED = 7


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("fuzz")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the script makes it, but without measuring: a folder of 8 bits, a made-up report, made-up records."""
    folder = tmp_path_factory.mktemp("fuzz")
    net = OnnxNet({"x": (1, 3, 6, 6)})
    onnx.save(net.model(net.classifier(net.conv("x", 3, 4), 4)), str(folder / "net.onnx"))
    data = {"x": np.random.default_rng(0).normal(size=(8, 3, 6, 6)).astype(np.float32)}
    options = Options(folder / "net.onnx", data=data, db=folder / "latency.db", verify_import=False)
    build_network(options, uniform="w8a8").save(folder / "built")
    plan = json.loads((folder / "built" / "plan.json").read_text())
    report = {
        "operators": [],
        "plan": plan["operators"],
        "latency_ms": {"fp32": 2.0, "int8": 1.0, "mixed": 0.8, "predicted": 0.7},
        "accuracy": {"metric": "top1", "fp32": 99.0, "int8": 98.0, "mixed": 98.0, "hits": {}, "samples": 9},
        "front": [],
    }
    (folder / "built" / "report.json").write_text(json.dumps(report))
    with LatencyDatabase(folder / "latency.db") as db:
        for i in range(9):
            key = LatencyKey(f"conv{i}", "w8a8", 8, "family", "{}", "target")
            db.put(LatencyRecord(key, "device", "0", "0", 1.0 + i, 0.1, 5, "2026-01-01T00:00:00", "measured"))
    export_records(folder / "latency.db", folder / "records.jsonl")
    return folder / "built"


@pytest.mark.parametrize("share", [3, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_damage_ends_in_one_line(fuzz: Any, built: Path, share: int) -> None:
    cases = {
        kind: count // share
        for kind, count in CASES.items()
        if kind != "tflite" or importlib.util.find_spec("flatbuffers")
    }
    counts, faults = fuzz.run(cases, SEED, lambda text: None, built)
    # SECURITY.md: a wrong length in a reply of an RPC server.
    assert [fault for fault in faults if not (fault.startswith("rpc ") and fault.endswith(" more than 2 GB"))] == []
    assert all(counts[f"{kind} refused"] > 0 for kind in cases), "damage is noticed"


@pytest.mark.slow
def test_what_goes_wrong_is_seen(fuzz: Any, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback, a crash and a hang of the worker are named."""
    worker = importlib.import_module("fuzz_worker")
    broken = tmp_path / "broken"
    broken.mkdir()
    shutil.copytree(ROOT / "benchmarks", broken / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    source = Path(worker.__file__).read_text()
    changed = source.replace(
        "    load_dataset(path, INPUTS)\n",
        "    kind = path.stat().st_size % 3\n    if kind == 0:\n        os.abort()\n"
        "    while kind == 1:\n        pass\n    raise KeyError('made up')\n",
    )
    assert changed != source
    (broken / "benchmarks" / "fuzz_worker.py").write_text(changed)
    (broken / "tests").symlink_to(ROOT / "tests")
    monkeypatch.setattr(fuzz, "ROOT", broken)
    monkeypatch.setattr(fuzz, "LONGEST_SEC", 0.5)
    _, faults = fuzz.run({"npz": 4}, SEED, lambda text: None, built)
    assert len(faults) == 4
    assert all(any(words in fault for fault in faults) for words in ("SIGABRT", "longer than 0.5 s", "KeyError"))
