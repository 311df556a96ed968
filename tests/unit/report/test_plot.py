"""Pictures on their own: sound SVG with the styles they need."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tvm_mpq.errors import InvalidValueError, OutputError
from tvm_mpq.report.plot import PICTURES, plot

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_stands_on_its_own(name: str, report: dict[str, Any], tmp_path: Path) -> None:
    picture = plot(report, name)
    root = ET.fromstring(picture._repr_svg_())
    assert root.tag == f"{SVG}svg" and ".mark" in root.findtext(f"{SVG}style", "")
    marks = [g for g in root.iter(f"{SVG}g") if g.get("class", "").startswith("mark")]
    assert len(marks) > 1 and all(g.findtext(f"{SVG}title") for g in marks)
    assert "http" not in picture.svg.replace("http://www.w3.org/2000/svg", "")
    picture.save(tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").read_text(encoding="utf-8") == picture.svg


def test_names_are_escaped(report: dict[str, Any]) -> None:
    report["front"][0]["plan"] = {"a": '<b>&"'}
    ET.fromstring(plot(report, "pareto").svg)


def test_what_cannot_be_drawn(report: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="one of pareto, tradeoff \\(got 'bits'\\)"):
        plot(report, "bits")
    with pytest.raises(InvalidValueError, match="nothing to draw as pareto"):
        plot({**report, "front": []}, "pareto")
    with pytest.raises(InvalidValueError, match="only reports of optimize"):
        plot({"plan": {}}, "tradeoff")  # type: ignore[typeddict-item]
    with pytest.raises(OutputError, match="cannot write picture"):
        plot(report, "pareto").save(tmp_path)
