"""Fine-tuning as `finetune` and `optimize --finetune` do it: what is built is what was learned."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

import tvm  # noqa: E402 - after the skip
from tvm import relax  # noqa: E402

from mpq_testing.onnx_models import OnnxNet  # noqa: E402
from mpq_testing.quick import measure_quickly  # noqa: E402
from tvm_mpq.errors import DataError, InvalidValueError, MissingDependencyError  # noqa: E402
from tvm_mpq.execute.prepare import prepare  # noqa: E402
from tvm_mpq.numerics.saved_plan import load_plan  # noqa: E402
from tvm_mpq.pipeline import build_network  # noqa: E402
from tvm_mpq.pipeline.optimize import optimize  # noqa: E402
from tvm_mpq.pipeline.options import Options  # noqa: E402
from tvm_mpq.schema import Plan  # noqa: E402
from tvm_mpq.training.network import QuantizedNetwork  # noqa: E402
from tvm_mpq.tuning.measure.kernels import MeasureSettings  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = OnnxNet({"image": (1, 3, 8, 8)})
    y = net.relu(net.conv("image", 3, 16, name="stem"))
    y = net.relu(net.op("Add", net.conv(y, 16, 16, name="block"), y))
    onnx.save(net.model(net.classifier(y, 16)), str(tmp_path / "net.onnx"))
    return tmp_path / "net.onnx"


def options(model: Path, said: list[str] | None = None, **more: object) -> Options:
    """Images of one colour each, and noise, so that there are classes to tell apart."""
    rng = np.random.default_rng(0)
    image = (rng.standard_normal((96, 3, 8, 8)) + 2 * rng.standard_normal((96, 3, 1, 1))).astype(np.float32)
    given = {
        "data": {"image": image}, "db": model.parent / "latency.db", "finetune_epochs": 3, "rounding": "nearest",
        "verify_import": False, **more
    }  # fmt: skip
    return Options(str(model), say=None if said is None else said.append, **given)  # type: ignore[arg-type]


def built(folder: Path, x: np.ndarray) -> np.ndarray:
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), tvm.cpu())
    return np.asarray(machine["main"](tvm.runtime.tensor(x)).numpy())


def trained(model: Path, folder: Path, x: np.ndarray) -> np.ndarray:
    plan, codes = load_plan(folder)
    prepared = prepare(str(model))
    with torch.no_grad():
        (y,) = QuantizedNetwork(prepared.graph, plan, prepared.features, codes).eval()(torch.from_numpy(x))
    return np.asarray(y.numpy())


def without_calls(plan: Plan) -> Plan:
    """A plan but for the names of kernels in its library, which depend on what was compiled before."""
    return dataclasses.replace(plan, info={key: value for key, value in plan.info.items() if key != "calls"})


def test_what_learned_is_built(model: Path, tmp_path: Path) -> None:
    said: list[str] = []
    x = options(model).data["image"][:1]
    result = build_network(options(model, said), uniform="w4a8", keep=("first",))
    report = result.save(tmp_path / "tuned")
    assert {"model.so", "plan.json", "codes.npz"} <= set(report["artifacts"])
    learned = report["finetune"]
    assert learned["epochs"] == 3 and 1 <= learned["kept"] <= 3 and learned["held"] == 6
    assert learned["loss"]["after"] < learned["loss"]["before"]
    assert sum("fine-tuning, epoch" in line for line in said) == 4
    np.testing.assert_array_equal(built(tmp_path / "tuned", x), trained(model, tmp_path / "tuned", x))
    plain = build_network(options(model, finetune_epochs=0), uniform="w4a8", keep=("first",))
    assert "finetune" not in plain.report and plain.plan.operators == result.plan.operators
    assert plain.plan.tensors != result.plan.tensors

    again = build_network(options(model), uniform="w4a8", keep=("first",))
    assert without_calls(again.plan) == without_calls(result.plan)
    assert again.report["finetune"]["seconds_per_epoch"] == 0

    more = build_network(options(model), uniform=None, plan=tmp_path / "tuned")  # from where that one ended
    assert more.report["finetune"]["loss"]["before"] == pytest.approx(learned["loss"]["after"], rel=1e-5)
    more.save(tmp_path / "more")
    np.testing.assert_array_equal(built(tmp_path / "more", x), trained(model, tmp_path / "more", x))


@pytest.mark.slow
def test_optimize_builds_what_learned(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {"repeats": 5, "min_repeat_ms": 0.2, "max_relative_iqr": 1e6, "max_drift": 1e6}
    measure_quickly(monkeypatch, MeasureSettings(**quick))
    x = options(model).data["image"][:1]
    result = optimize(options(model, precisions=("w8a8",), sensitivity_samples=4))
    report = result.save(tmp_path / "tuned")
    if "w8a8" not in result.plan.operators.values():
        assert report["finetune"] is None  # a plan in float has nothing to learn
        return
    assert report["finetune"]["epochs"] == 3
    got, wanted = built(tmp_path / "tuned", x), trained(model, tmp_path / "tuned", x)
    # Operators that the plan has in float add up in another order; one integer step is more than 1e-3 here.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_a_missing_torch_is_said_at_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tvm-mpq\[torch\]'"):
        build_network(options(model), uniform="w8a8")
    with pytest.raises(MissingDependencyError):
        optimize(options(model))


def test_synthetic_data_teach_nothing(model: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        build_network(options(model, data=None), uniform="w8a8")
    with pytest.raises(DataError, match="--data"):
        optimize(options(model, data=None))


def test_a_float_plan_stays(model: Path) -> None:
    assert "finetune" not in build_network(options(model), uniform="fp32").report


def test_epochs_below_0_are_refused(model: Path) -> None:
    with pytest.raises(InvalidValueError, match="finetune_epochs"):
        options(model, finetune_epochs=-1)
