"""Networks built without a search: plans made before, and operators that one precision does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax

from mpq_testing.onnx_models import OnnxNet, depthwise_and_shortcut
from mpq_testing.slowly import slow_but
from tvm_mpq.errors import NoKernelError, VerificationError
from tvm_mpq.execute import network
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.frontends import load_model
from tvm_mpq.numerics.saved_plan import load_plan
from tvm_mpq.pipeline import build_network
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.uniform import computed_with_more_bits, fallen_back, running_at, uniform_precisions
from tvm_mpq.schema import Plan, Precision, TensorQuant
from tvm_mpq.targets import local_row, to_tvm_attrs


@pytest.mark.parametrize(("asked", "built"), [(None, 4), (1, 1)])
def test_a_plan_keeps_its_threads_unless_others_are_asked_for(asked: int | None, built: int, tmp_path: Path) -> None:
    net = OnnxNet({"x": (1, 3, 6, 6)})
    onnx.save(net.model(net.conv("x", 3, 4, name="conv")), str(tmp_path / "net.onnx"))
    Plan(local_row().name, to_tvm_attrs(local_row(), 4), {"conv": "fp32"}, {}).save(tmp_path / "plan.json")
    options = Options(tmp_path / "net.onnx", threads=asked, db=tmp_path / "latency.db", verify_import=False)
    plan = build_network(options, uniform=None, plan=tmp_path / "plan.json").plan
    assert (plan.threads, plan.info["threads"]) == (built, built)


LONG = 80_000
"""Products of 8 bits whose sum may leave int32."""


def long_linear(folder: Path, say: list[str], *, alone: bool) -> Options:
    """A linear layer of so many inputs of one sign, and one behind it unless `alone`."""
    net = OnnxNet({"x": (1, LONG)})
    weight = net.value(np.full((LONG, 8), 1 / LONG, np.float32), name="long")
    y = net.op("MatMul", "x", weight)
    onnx.save(net.model(y if alone else net.linear(net.relu(y), 8, 8, name="short")), str(folder / "net.onnx"))
    data = {"x": np.random.default_rng(0).uniform(0.9, 1, (4, LONG)).astype(np.float32)}
    return Options(str(folder / "net.onnx"), data=data, db=folder / "latency.db", say=say.append, verify_import=False)


def test_a_sum_too_long_for_int32_stays_float_and_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    options = long_linear(tmp_path, said, alone=False)
    result = build_network(options, uniform="w8a8")
    assert result.plan.operators == {"long": "fp32", "short": "w8a8"}
    (line,) = (text for text in said if "w8a8" in text)
    assert "long at fp32" in line and "80000" in line and "short" not in line
    result.save(tmp_path / "built")
    machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(tmp_path / "built" / "model.so")), tvm.cpu())
    x = options.data["x"][:1]
    y = machine["main"](tvm.runtime.tensor(x)).numpy()
    wanted = onnx.reference.ReferenceEvaluator(str(tmp_path / "net.onnx")).run(None, {"x": x})[0]
    assert np.abs(y - wanted).max() < 0.02 * np.abs(wanted).max()  # 8 bits behind the long sum


def test_nothing_but_a_sum_too_long_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        NoKernelError, match=r"no operator has a kernel for w8a8 .*long adds up 80000 products, int32 holds 33155"
    ) as error:
        build_network(long_linear(tmp_path, [], alone=True), uniform="w8a8")
    assert "\n" not in str(error.value)


def test_a_plan_that_asks_for_it_is_refused(tmp_path: Path) -> None:
    options = long_linear(tmp_path, [], alone=True)
    row = local_row()
    ranges = {name: [TensorQuant(8, 2.0**-8, 0)] for name in ("x", "long")}
    Plan(row.name, to_tvm_attrs(row, 1), {"long": "w8a8"}, ranges).save(tmp_path / "plan.json")
    with pytest.raises(NoKernelError, match="it adds up 80000 products, int32 holds 33155"):
        build_network(options, uniform=None, plan=tmp_path / "plan.json")


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network, its data, and in `built` what --uniform w8a8 makes of it."""
    folder = tmp_path_factory.mktemp("rounded")
    onnx.save(depthwise_and_shortcut(9, 16), str(folder / "net.onnx"))
    shape = prepare(folder / "net.onnx").inputs["x"][0]
    x = np.random.default_rng(0).normal(0, 1, (8, *shape[1:])).astype(np.float32)
    np.savez(folder / "data.npz", x=x)
    options = Options(folder / "net.onnx", data=folder / "data.npz", db=folder / "latency.db", verify_import=False)
    build_network(options, uniform="w8a8").save(folder / "built")
    return folder


@pytest.fixture
def compiled(rounded: Path, tmp_path: Path) -> None:
    """A database of this folder, latency.db, will have the kernels of `rounded`."""
    (tmp_path / "latency.db.kernels").symlink_to(rounded / "latency.db.kernels")


@pytest.mark.usefixtures("compiled")
def test_rounded_weights_travel_with_the_plan(rounded: Path, tmp_path: Path) -> None:
    plan, codes = load_plan(rounded / "built")
    assert {name for name, _ in codes} == set(plan.operators)
    again = Options(rounded / "net.onnx", db=tmp_path / "latency.db", verify_import=False)
    build_network(again, uniform=None, plan=rounded / "built" / "plan.json").save(tmp_path / "again")
    assert load_plan(tmp_path / "again")[1].digest == codes.digest
    outputs = [outputs_of(folder, rounded / "data.npz") for folder in (rounded / "built", tmp_path / "again")]
    np.testing.assert_array_equal(*outputs)
    given = {"data": rounded / "data.npz", "db": tmp_path / "latency.db", "verify_import": False}
    build_network(Options(rounded / "net.onnx", rounding="nearest", **given), uniform="w8a8").save(tmp_path / "nearest")
    assert not (tmp_path / "nearest" / "codes.npz").exists()
    assert not np.array_equal(outputs[0], outputs_of(tmp_path / "nearest", rounded / "data.npz"))


def test_passes_take_the_rounded_weights_from_the_folder(rounded: Path) -> None:
    mod = load_model(rounded / "net.onnx").mod
    folder = str(rounded / "built")
    library = tvm.compile(
        mod, load_plan(folder)[0].tvm_target(), relax_pipeline=relax.get_pipeline("tvm_mpq", plan=folder)
    )
    machine = relax.VirtualMachine(library, tvm.cpu())
    with np.load(rounded / "data.npz") as data:
        found = machine["main"](tvm.runtime.tensor(data["x"][:1]))
    np.testing.assert_array_equal(np.asarray(found.numpy()), outputs_of(rounded / "built", rounded / "data.npz")[0])


@pytest.mark.usefixtures("compiled")
def test_synthetic_data_say_nothing_of_rounding(rounded: Path, tmp_path: Path) -> None:
    options = Options(rounded / "net.onnx", db=tmp_path / "latency.db", verify_import=False)
    result = build_network(options, uniform="w8a8")
    assert not (result.folder / "codes.npz").exists()


def outputs_of(folder: Path, data: Path) -> np.ndarray:
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), tvm.cpu())
    with np.load(data) as archive:
        runs = [machine["main"](tvm.runtime.tensor(archive["x"][i : i + 1])) for i in range(len(archive["x"]))]
    return np.stack([r.numpy() for r in runs])


def test_a_precision_that_nobody_gains_by_runs_on_the_code_of_more_bits(rounded: Path) -> None:
    prepared = prepare(rounded / "net.onnx")  # w5a3 is not offered, so that it is nobody's candidate
    wanted = Precision.parse("w5a3")
    running = running_at(prepared, wanted)
    precisions = uniform_precisions(prepared, wanted, ("first",), running)
    assert list(precisions.values()) == ["w8a8", "w5a3", "w5a3", "w5a3"]
    assert not list(fallen_back(prepared, precisions, wanted, running))
    assert computed_with_more_bits(prepared, wanted, running)
    own = Precision.parse(next(p for p in list(prepared.graph.weighted())[-1].candidates if p not in ("fp32", "w8a8")))
    for other in (own, Precision.parse("w8a8"), Precision.parse("fp32")):
        assert not computed_with_more_bits(prepared, other, running_at(prepared, other))


@pytest.mark.parametrize("precision", slow_but(["fp32", "w8a8"], "w8a8"))
def test_a_library_that_computes_something_else_is_not_kept(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(depthwise_and_shortcut(9, 37), str(tmp_path / "net.onnx"))
    options = Options(str(tmp_path / "net.onnx"), db=tmp_path / "latency.db", verify_import=False)
    real = network.run_library
    monkeypatch.setattr(network, "run_library", lambda *given: [1.2 * y for y in real(*given)])
    with pytest.raises(VerificationError, match="one by one"):
        build_network(options, uniform=precision)
