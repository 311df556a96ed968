"""The table of networks tried: entries, samples for their inputs, comparing outputs, what a row says."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def parts() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    names = ("entries", "inputs", "worker", "networks")
    yield SimpleNamespace(**{name: importlib.import_module(f"tried_{name}") for name in names})
    sys.path.remove(str(BENCHMARKS))


def test_entries_have_names_of_their_own_and_known_rules(parts: Any) -> None:
    entries = parts.entries.ENTRIES
    assert len({e.name for e in entries}) == len(entries) >= 20
    assert {rule for e in entries for rule in e.fill.values()} <= set(parts.inputs.RULES)
    packages = {e.source for e in entries} - {parts.entries.SHARED, parts.entries.ONNX}
    assert all("==" in source for source in packages)


PICTURES = [("raw", (1, 32, 40, 3)), ("imagenet", (2, 3, 48, 160)), ("text", (1, 1, 64, 96)), ("text", (1, 3, 128, 96))]


@pytest.mark.parametrize(("rule", "shape"), PICTURES)
def test_pictures_have_the_network_s_layout(parts: Any, rule: str, shape: tuple[int, ...]) -> None:
    drawn = parts.inputs.samples(rule, shape, "float32", 3, seed=1)
    assert drawn.shape == (3, *shape)
    assert drawn.dtype == np.float32
    assert drawn.std() > 0.1
    assert not np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn, parts.inputs.samples(rule, shape, "float32", 3, seed=1))


def test_error_and_noise_of_the_worst_output(parts: Any) -> None:
    wanted = [[np.array([1.0, -2.0], np.float32), np.array([3.0, 4.0], np.float32)]] * 2
    ours = [[x.copy() for x in outputs] for outputs in wanted]
    assert parts.worker.compared(ours, wanted) == (0.0, np.inf)
    ours[1][1][0] += 0.5  # of 2 * (9 + 16) signal, 0.25 noise
    error, snr = parts.worker.compared(ours, wanted)
    assert error == pytest.approx(0.5 / 4)
    assert snr == pytest.approx(10 * np.log10(50 / 0.25))


def test_integers_are_equal_or_wrong(parts: Any) -> None:
    wanted = [[np.array([1, 2, 3, 4])]]
    assert parts.worker.compared([[np.array([1, 2, 3, 5])]], wanted)[0] == 0.25


@pytest.mark.parametrize("ours", [np.zeros(3, np.float32), np.array([np.nan, 1], np.float32)])
def test_other_shapes_and_nan_are_faults(parts: Any, ours: Any) -> None:
    with pytest.raises(ValueError, match="output 0"):
        parts.worker.compared([[ours]], [[np.ones(2, np.float32)]])


def test_what_a_row_says(parts: Any) -> None:
    plain = parts.entries.Entry("a", "k", "onnx", "p")
    sized = parts.entries.Entry("b", "k", "onnx", "p", {"x": (1, 2)})
    done = parts.worker.Answer(step="done")
    assert parts.networks.verdict(plain, done) == "as shipped"
    assert parts.networks.verdict(sized, done) == "with --input-shape"
    assert parts.networks.verdict(plain, parts.worker.Answer(refused="UnsupportedModelError: Loop")) == "refused"
    assert parts.networks.verdict(plain, parts.worker.Answer(step="run fp32", fault="x")) == "fault in run fp32"
