"""Jobs round weights on some of the calibration samples, and judge plans on the others."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mpq_testing.onnx_models import OnnxNet
from tvm_mpq.pipeline import optimize as optimizing
from tvm_mpq.pipeline.context import open_context
from tvm_mpq.pipeline.options import Options


class Reached(Exception):
    """The job came to where it selects."""


@pytest.fixture
def options(tmp_path: Path) -> Options:
    net = OnnxNet({"image": (1, 3, 8, 8)})
    y = net.relu(net.conv("image", 3, 8, name="stem"))
    onnx.save(net.model(net.classifier(y, 8)), str(tmp_path / "net.onnx"))
    images = np.random.default_rng(0).normal(size=(50, 3, 8, 8)).astype(np.float32)
    return Options(
        tmp_path / "net.onnx", data={"image": images}, db=tmp_path / "latency.db", rounding_samples=12,
        verify_import=False,
    )  # fmt: skip


def samples_of(options: Options, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[float]]:
    """First numbers of the samples that `optimize` rounds on, judges on, and tells accuracy of."""
    seen: dict[str, set[float]] = {}

    def numbers(data: Any) -> set[float]:
        return {float(x) for x in data.arrays["image"][:, 0, 0, 0]}

    def rounder(_: object, data: Any) -> None:
        seen["rounded"] = numbers(data)

    def selector(_: object, __: object, data: Any, *___: object) -> None:
        seen["judged"] = numbers(data)
        raise Reached

    monkeypatch.setattr(optimizing, "Rounder", rounder)
    monkeypatch.setattr(optimizing, "Selector", selector)
    monkeypatch.setattr(optimizing, "build_tables", lambda *_, **__: None)
    monkeypatch.setattr(optimizing, "corrected_tables", lambda *_, **__: None)
    with pytest.raises(Reached):
        optimizing.optimize(options)
    return seen


def test_no_plan_is_judged_on_samples_that_its_weights_were_rounded_on(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    seen = samples_of(dataclasses.replace(options, say=said.append), monkeypatch)
    assert any(
        re.search("50 calibration samples, .* rounded on 12 and plans judged on the other 38", text) for text in said
    )
    assert (len(seen["rounded"]), len(seen["judged"])) == (12, 38) and not seen["rounded"] & seen["judged"]


def test_evaluation_data_judge_where_that_is_asked_for(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    new = {"image": np.full((5, 3, 8, 8), 7, np.float32)}
    seen = samples_of(dataclasses.replace(options, eval_data=new, judge="eval"), monkeypatch)
    assert seen["judged"] == {7.0} and len(seen["rounded"]) == 12


def test_learned_rounding_takes_more_of_them_but_not_all(options: Options) -> None:
    with open_context(dataclasses.replace(options, rounding="adaround")) as context:
        assert (len(context.parts.rounded), len(context.parts.judged)) == (25, 25)
