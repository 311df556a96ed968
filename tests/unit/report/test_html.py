from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tvm_mpq.errors import OutputError
from tvm_mpq.report import write_report
from tvm_mpq.report.html import render

Report = dict[str, Any]

VOID = {"meta", "br"}


class Checker(HTMLParser):
    """Collects tags, attributes and text; fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def test_the_page_holds_everything(report: Report, tmp_path: Path) -> None:
    report["budget"] = {"size_mb": 0.1}
    path = tmp_path / "report.html"
    write_report(report, path)
    page = path.read_text(encoding="utf-8")
    text = parsed(page).text
    for operator in report["operators"]:
        assert operator["name"] in text
    for part in (
        "1x8x8x48 -> 96, 3x3/2, residual, relu",
        "98.10 % (529/539)",
        "How was the latency table built?",
        "Is mixed precision faster than 8 bit everywhere here, and why?",
        "Is 8 bit faster than fp32 here?",
        "HiGHS 1.15: optimal",
        report["device"],
        "NOT met",
        "+5.0 %",
        "fc:8->32",
    ):
        assert part in text
    chosen = re.findall(r'<td class="n chosen">([\d.]+) µs', page)
    assert chosen == ["12", "14", "14", "40"]


def test_nothing_is_loaded_from_elsewhere(report: Report) -> None:
    checker = parsed(render(report))
    assert not {"script", "link", "img", "iframe", "object"} & set(checker.tags)
    assert not {"src", "srcset"} & {name for name, _ in checker.attributes}
    anchors = {value for name, value in checker.attributes if name == "id"}
    targets = [value for name, value in checker.attributes if name == "href"]
    assert len(targets) == 11 and {f"#{anchor}" for anchor in anchors} == set(targets), "contents, within the page"
    assert not re.search(r"https?://|url\(|@import", render(report))


HOSTILE = "</title></style>\"'><evil onload='x'>&lt;{{ 7 * 7 }}{% endif %}"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where text stands in a report: keys that lead to it; a key that is itself text from outside ends in `KEY`."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if path in OUTSIDE_KEYS:
                yield (*path, key, KEY)
            yield from places(part, (*path, key))


KEY = "its name"
OUTSIDE_KEYS = {("operators", 0, "candidates"), ("plan",), ("provenance", "versions"), ("provenance", "digests")}


def poisoned(report: Report, path: tuple[Any, ...]) -> Report:
    """A copy with hostile text at that place."""
    found = copy.deepcopy(report)
    *way, last = path[:-1] if path[-1] == KEY else path
    part = found
    for key in way:
        part = part[key]
    if path[-1] == KEY:
        part[HOSTILE] = part.pop(last)
    else:
        part[last] = HOSTILE
    return found


def test_names_are_escaped_wherever_they_stand(report: Report) -> None:
    """Every text of a report in turn is hostile: it comes out as text, and the page has no other tags than before."""
    reading = {"governor": "performance", "throttled": "hot", "warnings": ["load 3.0"]}
    lost = [{"board": "k at h:1", "reason": "no answer", "came_back": False}]
    report |= {"health": {"start": reading, "end": dict(reading)}, "boards": {"used": ["k at h:2"], "lost": lost}}
    report["operators"], report["front"] = report["operators"][:1], report["front"][-1:]
    allowed = {
        *("lang", "charset", "name", "content", "class", "title", "role", "aria-label", "viewbox", "width", "style"),
        *("x", "y", "height", "text-anchor", "id", "href"),
        *("x1", "x2", "y1", "y2", "cx", "cy", "r", "points"),
    }
    shown = set()
    for path in places(report):
        page = parsed(render(poisoned(report, path)))
        assert "evil" not in page.tags and {name for name, _ in page.attributes} <= allowed, path
        if HOSTILE in page.text or HOSTILE in {value for _, value in page.attributes}:
            shown.add(path)
    first, board = ("operators", 0), ("boards", "lost", 0)
    names = {("model",), ("target",), ("device",), ("accuracy", "metric"), ("calibration", "observer")}
    names |= {("solver", "name"), ("solver", "status"), ("plan", "stem"), ("boundaries", 0), ("boards", "used", 0)}
    names |= {(*first, "name"), (*first, "workload"), (*first, "precision"), (*first, "candidates", "fp32", KEY)}
    names |= {("front", 0, "name"), ("front", 0, "plan", "stem"), ("waterfall", 0, "name")}
    names |= {("provenance", what) for what in ("command", "created")}
    names |= {("provenance", "versions", "TVM"), ("provenance", "digests", "model", KEY)}
    names |= {(*board, "board"), (*board, "reason"), ("health", "start", "warnings", 0)}
    names |= {("health", when, what) for when in ("start", "end") for what in ("governor", "throttled")}
    assert names <= shown


def test_what_an_older_version_did_not_say_is_left_out(report: Report) -> None:
    """report.json of before: no front, no steps, no provenance."""
    for key in ("front", "waterfall", "provenance"):
        del report[key]
    checker = parsed(render(report))
    anchors = {value for name, value in checker.attributes if name == "id"}
    assert "result" in anchors and not {"pareto", "waterfall", "provenance"} & anchors
    assert {value for name, value in checker.attributes if name == "href"} == {f"#{anchor}" for anchor in anchors}


def test_the_page_is_the_same_from_json(report: Report) -> None:
    """Keys that were numbers are text once the report has been a JSON file."""
    assert render(json.loads(json.dumps(report))) == render(report)


@pytest.mark.parametrize("operators", [[], None])
def test_a_network_without_quantizable_operators(report: Report, operators: list[Any] | None) -> None:
    report |= {"operators": operators or [], "plan": {}, "boundaries": []}
    assert "no quantizable operator" in parsed(render(report)).text


def test_numbers_that_are_none(report: Report) -> None:
    report["operators"][0] |= {"latency_us": None}
    report["solver"]["gap"] = report["solver"]["bound"] = float("nan")
    report["latency_iqr_ms"] = {}
    text = parsed(render(report)).text
    assert "nan" not in text.lower()
    assert "None" not in text


def test_a_page_that_cannot_be_written(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write page"):
        write_report(report, tmp_path / "file" / "report.html")


def test_an_undecodable_name(report: Report, tmp_path: Path) -> None:
    report["model"] = "caf\udce9"
    write_report(report, tmp_path / "r.html")
    assert "caf?" in (tmp_path / "r.html").read_text(encoding="utf-8")
