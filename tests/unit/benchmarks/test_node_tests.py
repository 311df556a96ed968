"""A sample of the ONNX package's node tests through the whole way, and how the script judges."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpq_testing.slowly import slow_but

BENCHMARKS = str(Path(__file__).parents[3] / "benchmarks")

RIGHT = (
    "test_add_bcast",  # inputs whose first axes differ
    "test_isinf_positive",
    "test_resize_downsample_scales_linear_antialias",
    "test_layer_normalization_2d_axis0",  # three outputs, by the schema's function body
    "test_shape_start_1",  # a constant result
    "test_scan9_sum",
    "test_rotary_embedding",  # a part without elements
)
REFUSED = ("test_nonmaxsuppression_two_batches", "test_bernoulli_seed", "test_roialign_mode_max")


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    sys.path.insert(0, BENCHMARKS)
    yield importlib.import_module("node_tests")
    sys.path.remove(BENCHMARKS)


@pytest.fixture(scope="module")
def cases(script: Any) -> dict[str, Any]:
    return {case.name: case for case in script.cases()}


@pytest.mark.parametrize("name", slow_but(RIGHT, "test_add_bcast", "test_layer_normalization_2d_axis0", RIGHT[-1]))
def test_right(name: str, script: Any, cases: dict[str, Any]) -> None:
    verdict = script.judge(cases[name])
    assert (verdict.outcome, verdict.text) == ("right", "")


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, script: Any, cases: dict[str, Any]) -> None:
    verdict = script.judge(cases[name])
    assert verdict.outcome == "refused" and "\n" not in verdict.text


def test_what_differs_is_found(script: Any) -> None:
    wanted = [np.float32([1, 2, np.nan])]
    assert script.difference([np.float32([1, 2, np.nan])], wanted, 1e-3) == ""
    assert script.difference([np.float32([1, 2.1, np.nan])], wanted, 1e-3) == "1 of 3 values of output 0 differ"
    assert "shape" in script.difference([np.float32([1, 2])], wanted, 1e-3)
    assert "dtype" in script.difference([np.int32([1])], [np.int64([1])], 1e-3)
    assert "0 outputs" in script.difference([], wanted, 1e-3)


def test_cases_are_chosen_by_their_names(script: Any) -> None:
    assert list(script.selected(["test_a", "test_ab", "test_c"], ["a", "-b"])) == ["test_a"]
    assert list(script.selected(["test_a", "test_c"], ["-a"])) == ["test_c"]
