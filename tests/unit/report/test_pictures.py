from __future__ import annotations

import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from tvm_mpq.report.html import render
from tvm_mpq.report.pictures.agreement import agreement
from tvm_mpq.report.pictures.latency import latency_bars
from tvm_mpq.report.pictures.palette import parts, shade
from tvm_mpq.report.pictures.pareto import pareto
from tvm_mpq.report.pictures.scatter import Mark, scatter
from tvm_mpq.report.pictures.strip import legend, strip
from tvm_mpq.report.pictures.tradeoff import tradeoff
from tvm_mpq.report.pictures.waterfall import SHOWN, waterfall_bars

Report = dict[str, Any]


def linear_rgb(colour: str) -> list[float]:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def lightness(colour: str) -> float:
    """CIE L*, 0 to 100."""
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear_rgb(colour), strict=True))
    return float(116 * luminance ** (1 / 3) - 16)


def test_bits_are_told_apart_without_seeing_colours() -> None:
    """Each step is lighter by at least 9 of 100, far above the 2 that are just noticed side by side."""
    shades = [shade(bits) for bits in range(1, 9)]
    assert all(b - a >= 9 for a, b in pairwise(lightness(s.background) for s in shades))
    for s in [*shades, shade("fp32"), shade("bf16")]:
        letters = 100 if s.kind == "dark" else lightness("#1c2530")
        assert abs(lightness(s.background) - letters) > 40, f"numbers can be read on {s.background}"
    assert len({shade(x) for x in (*range(1, 9), "fp32", "bf16")}) == 10


@pytest.mark.parametrize("label", ["w0a8", "w9a8", "strange", ""])
def test_a_precision_of_another_version_has_a_shade(label: str) -> None:
    assert shade(parts(label)[0]).background == "#ffffff"


def test_bars_are_proportional(report: Report) -> None:
    bars = latency_bars(report["operators"])
    assert [bar.length for bar in bars] == pytest.approx([t / 40 for t in (12, 14, 14, 40)])
    assert bars[0].value == "w8a8 · 15.0 % · 12 µs"
    assert len({bar.shade for bar in bars}) == 3, "w8, w4 and fp32 differ"


def test_the_strip(report: Report) -> None:
    cells = strip(report["operators"])
    assert [(c.weights[0], c.activations[0]) for c in cells] == [("8", "8"), ("4", "8"), ("4", "8"), ("fp32", "fp32")]
    assert [name for name, _ in legend(report["operators"])] == ["4 bit", "8 bit", "fp32"]


def test_a_waterfall_adds_up(report: Report) -> None:
    bars = waterfall_bars(report)
    assert [bar.value for bar in bars] == ["0.250 ms", "-30 µs", "-14 µs", "+4 µs", "0.210 ms"]
    full = bars[0].length / 0.25
    ends = [(bar.start / full, (bar.start + bar.length) / full) for bar in bars]
    for (low, high), (start, end) in zip(ends, [(0, 250), (220, 250), (206, 220), (206, 210), (0, 210)], strict=True):
        assert (1000 * low, 1000 * high) == pytest.approx((start, end))


def test_many_small_steps_are_one(report: Report) -> None:
    report["waterfall"] = [{"name": f"op{i}", "change_us": -float(i + 1)} for i in range(SHOWN + 5)]
    bars = waterfall_bars(report)
    assert len(bars) == SHOWN + 3
    assert (bars[-2].name, bars[-2].value) == ("5 smaller steps", "-15 µs")


def test_agreement(report: Report) -> None:
    rows = {row.name: row for row in agreement(report)}
    assert rows["mixed"].text == "0.200 ms measured (IQR 0.00300), 0.210 ms predicted (+5.0 %)"
    widest = 0.8 + 0.01 / 2
    assert rows["mixed"].measured == pytest.approx(0.2 / widest) and rows["mixed"].predicted == pytest.approx(
        0.21 / widest
    )
    assert rows["fp32"].spread == pytest.approx((0.795 / widest, 1.0))
    report |= {"predicted_ms": {}, "latency_iqr_ms": {}}
    assert {row.predicted for row in agreement(report)} == {None}
    assert agreement({"operators": [], "plan": {}, "latency_ms": {}}) == []


def test_the_pareto_picture(report: Report) -> None:
    report["budget"] = {"latency_ratio": 0.8}
    picture = pareto(report)
    assert picture is not None
    kinds = [mark.kind for mark in picture.marks]
    assert kinds == ["searched", "uniform", "uniform dominated", "uniform", "chosen"], "the chosen one drawn last"
    assert [mark.label for mark in picture.marks] == ["", "w8a8", "", "fp32", "chosen"]
    assert "another plan beats it" in picture.marks[2].title and "1 x w8a8" in picture.marks[0].title
    by_x = sorted(picture.marks, key=lambda m: m.x)
    assert [m.kind for m in by_x] == ["searched", "chosen", "uniform", "uniform dominated", "uniform"]
    assert picture.marks[3].y == picture.bottom > max(m.y for m in picture.marks[:3]), "no loss stands at the foot"
    (budget,) = picture.lines
    assert by_x[0].x == pytest.approx(budget.place), "0.8 of the 0.25 ms that 8 bit is predicted to take"
    for mark in picture.marks:
        assert picture.left < mark.x < picture.right and picture.top < mark.y <= picture.bottom


def test_the_fastest_other_engine_is_a_line_of_the_pareto_picture(report: Report) -> None:
    report["peers"] = [
        {"engine": name, "latency_ms": ms, "measured": "2026-01-02"}
        for name, ms in (("openvino-fp32", 0.1), ("openvino-int8", 1.5), ("ort-int8", 2.5))
    ]
    picture = pareto(report)
    assert picture is not None and [line.name for line in picture.lines] == ["openvino-int8"]
    page = render(report)
    assert "measured by <code>bench</code> on 2026-01-02" in page and "openvino-int8: 1.50 ms" in page
    del report["peers"]
    assert "<code>bench</code>" not in render(report)


def test_tradeoff(report: Report) -> None:
    picture = tradeoff(report["operators"])
    assert picture is not None
    assert [mark.kind for mark in picture.marks] == ["other", "other", "chosen", "chosen"]
    assert "stem at w4a8: costs 2 µs, loss 0.0200" in {mark.title for mark in picture.marks}
    assert tradeoff([]) is None


@pytest.mark.parametrize(
    "values", [[(1.0, 0.0)], [(0.0, 1e-9)], [(5.0, 1e-3), (5.0, 1e-3)], [(-3.0, 1e9), (4.0, -1.0)]]
)
def test_any_points_have_axes(values: list[tuple[float, float]]) -> None:
    picture = scatter([Mark(x, y, "", "") for x, y in values], "x", "y")
    assert len(picture.x_ticks) >= 2 and len(picture.y_ticks) >= 2
    assert all(picture.left <= tick.place <= picture.right for tick in picture.x_ticks)
    assert all(picture.top <= tick.place <= picture.bottom for tick in picture.y_ticks)


def test_points_say_their_names_in_the_page(report: Report) -> None:
    drawings = re.findall(r"<svg.*?</svg>", render(report), re.S)
    marks = [len(list(ElementTree.fromstring(svg).iter("title"))) for svg in drawings]
    assert marks == [5, 4]
