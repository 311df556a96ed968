"""Reports as tables on a terminal: what they show, fold and leave out.

In one file: all tables are printed from the same few reports.
"""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest

from tvm_mpq.report import tables

Report = dict[str, Any]


@pytest.fixture(autouse=True)
def no_width_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    return out.splitlines()


def test_optimize(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    report["budget"] = {"size_mb": 0.3}
    tables.show_optimize(report)
    found = lines(capsys)
    rows = {line.split("  ")[0]: line for line in found}
    mixed = "mixed 98.10 % (529/539) 0.200 (IQR 0.00300) 0.210 (+5.0 %) 450 kB 280 kB 20.5 kB 1.25x"
    assert " ".join(rows["mixed"].split()) == mixed
    assert {"fp32", "uniform 8 bit"} <= rows.keys()
    words = "\n".join(found)
    for part in (
        "weights at most 0.300 MB: 0.280 MB, met",
        "1 x fp32, 2 x w4a8, 1 x w8a8",
        "HiGHS 1.15: optimal, objective 0.0400, bound 0.0300, gap 25.0 %",
        "20 measured now, 4 measured before (database), 0 predicted",
        "/out/model.so",
    ):
        assert part in words
    assert "note:" not in words


def test_optimize_notes(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    report["calibration"]["synthetic"] = True
    tables.show_optimize(report)
    assert any(line.startswith("note: Calibrated on synthetic data") for line in lines(capsys))


def inspected(name: str) -> Report:
    row = {"name": name, "kind": "conv2d", "workload": "", "shape": [1, 8, 8, 96], "macs": 2_654_208}
    return {
        "model": "m",
        "target": "local",
        "inputs": {"x": [[1, 3, 8, 8], "float32"]},
        "notes": ["batch set to 1"],
        "operators": [{**row, "parameters": 41_568, "candidates": ["w8a8", "fp32"]}],
        "totals": {"operators": 1, "quantizable": 1, "macs": 2_654_208, "parameters": 41_568},
    }


def test_inspect_is_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    name = "layer." * 60 + "conv"
    tables.show_inspect(inspected(name))
    found = lines(capsys)
    assert [name, "conv2d", "1x8x8x96", "2.65M", "41.6k", "w8a8", "fp32"] in [line.split() for line in found]
    assert "1 operators, 1 quantizable, 2.65M MACs, 41.6k parameters" in found
    assert "note: batch set to 1" in found
    assert not any("left out" in line for line in found), "reports of older versions do not say"


def test_inspect_says_why_precisions_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    report = inspected("conv")
    rows = [("w6a8", "same code", 2), ("w4a8", "same code", 1), ("w4a8", "floats as fast", 1), ("bf16", "no kernel", 3)]
    report["left_out"] = [dict(zip(("precision", "reason", "operators"), row, strict=True)) for row in rows]
    tables.show_inspect(report)
    notes = [line for line in lines(capsys) if "left out" in line]
    assert len(notes) == 3
    assert "w6a8 (2), w4a8 (1): there they would run the same code as more bits" in notes[0]
    assert "operators: w4a8 (1): there floats are as fast" in notes[1]
    assert "bf16 (3): there this target has no kernel" in notes[2]


class Terminal(io.TextIOWrapper):
    """A terminal that knows only ASCII."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, encoding: str) -> tuple[Terminal, io.BytesIO]:
    raw = io.BytesIO()
    terminal = Terminal(raw, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    return terminal, raw


def without_styles(shown: str) -> str:
    return re.sub("\x1b\\[[0-9;]*m", "", shown)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_narrow_terminal_folds(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    terminal, raw = on_terminal(monkeypatch, 60, encoding)
    tables.show_inspect(inspected("abcdefghijklmnopqrstuvwxyz0123456789"))
    terminal.flush()
    shown = without_styles(raw.getvalue().decode(encoding))
    table = [line for line in shown.splitlines() if line[:1] in "|│+╭├╰"]
    assert len(table) > 3
    assert {len(line) for line in table} <= set(range(61))
    first = "".join(line.strip("|│").replace("│", "|").split("|")[0].strip() for line in table)
    assert "abcdefghijklmnopqrstuvwxyz0123456789" in first
    assert "…" not in shown


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_inspect(inspected("[red]conv[/red]:smile:"))
    assert any("[red]conv[/red]:smile:" in line for line in lines(capsys))


def test_sensitivity_says_what_its_numbers_stand_on(capsys: pytest.CaptureFixture[str]) -> None:
    losses = {"w8a8": {"loss": 0.25, "disagree": 0.0, "wrong": None}}
    tables.show_sensitivity(
        {
            "model": "m",
            "metric": "kl",
            "samples": 3,
            "synthetic": True,
            "operators": [{"name": "stem", "workload": "convert(shape=1,from_bits=32,to_bits=8)", "losses": losses}],
            "boards": {"used": ["b"], "lost": [{"board": "a", "reason": "no answer", "came_back": True}]},
        }
    )
    found = lines(capsys)
    assert "note: synthetic data: give real data with --data" in found
    assert "note: Board a was lost (no answer); it came back." in found
    assert any(line.split()[:2] == ["stem", "0.250"] for line in found)


def test_search(capsys: pytest.CaptureFixture[str]) -> None:
    point = {
        "latency_ms": 1.5,
        "size_mb": 0.25,
        "energy_mj": None,
        "loss": 0.01,
        "plan": {"a": "w4a8"},
        "gap": 0.0,
        "status": "optimal",
        "evaluations": 0,
    }
    report: Any = {
        "model": "m",
        "method": "ilp",
        "latency_source": "measured",
        "axis": "latency",
        "points": [
            {**point, "name": "", "dominated": False},
            {**point, "name": "uniform w8a8", "dominated": True},
        ],
        "latency_entries": {"measured": 1, "predicted": 0, "cached": 2},
        "boards": {"used": ["b"], "lost": [{"board": "a", "reason": "no answer", "came_back": True}]},
    }
    tables.show_search(report)
    text = lines(capsys)
    assert "note: Board a was lost (no answer); it came back." in text
    assert any("optimize measures" in line for line in text) and not any("energy" in line for line in text)
    found = [line.split() for line in text]
    assert ["front", "1", "1.50", "0.250", "0.0100", "1", "x", "w4a8"] in found
    assert ["uniform", "w8a8", "1.50", "0.250", "0.0100", "1", "x", "w4a8", "dominated"] in found
    simulated = {"measured": 0, "predicted": 0, "cached": 2, "simulated": 7}
    points = [{**point, "name": "", "dominated": False, "energy_mj": 3.25}]
    tables.show_search({**report, "latency_source": "mpic", "points": points, "latency_entries": simulated})
    text = lines(capsys)
    assert ["front", "1", "1.50", "0.250", "3.25", "0.0100", "1", "x", "w4a8"] in [line.split() for line in text]
    assert any("simulated (mpic)" in line for line in text) and not any("optimize measures" in line for line in text)
    assert any("7 operators simulated now, 2 before" in line for line in text)


def test_compare(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "method": "ilp", "budget": 0.75, "reason": "", "bound": 0.5, "gap": 0.0, "seconds": 1.5, "loss": 0.5,
        "predicted_ms": 1.25, "ratio": 0.7, "size_mb": 1.0, "energy_mj": None, "evaluations": 0, "status": "optimal",
        "plan": {"a": "w4a8"}, "measured_ms": None, "accuracy": None,
        "held_loss": None, "trace": [],
    }  # fmt: skip
    nothing = {"method": "amed", "loss": None, "gap": None, "predicted_ms": None, "plan": {}, "reason": "not found"}
    report: Any = {
        "model": "m", "target": "t", "device": "d", "int8_ms": 2.0, "int8_mj": None, "seed": 3,
        "axis": "latency", "latency_source": "measured", "free_bits": False, "metric": "",
        "disagreements": ["0.75 of 8 bit: why"], "uniform": [],
        "rows": [
            row,
            {**row, **nothing, "evaluations": 40},
            *({**row, **nothing, "method": m, "budget": b} for b in (0.5, 0.25) for m in ("amed", "haq")),
        ],
        "latency_entries": {}, "health": None, "boards": None,
    }  # fmt: skip
    tables.show_compare(report)
    text = lines(capsys)
    found = [line.split() for line in text]
    assert ["ilp", "0.750", "0.500", "0.0", "%", "1.25", "1.50", "1", "x", "w4a8"] in found
    assert ["amed", "0.750", "-", "-", "-", "40", "1.50", "no", "plan"] in found
    assert "note: 0.75 of 8 bit: why" in text
    assert "note: amed, haq; 0.75, 0.5, 0.25: not found" in text and not any("measured ms" in line for line in text)
    report["rows"][0] |= {"measured_ms": 1.5, "accuracy": 91.5, "held_loss": 0.25}
    fixed = {"precision": "w8a8", "predicted_ms": 1.75, "accuracy": 92.5, "held_loss": 0.05}
    floats = {"precision": "fp32", "predicted_ms": None, "accuracy": 93.5, "held_loss": 0.0}
    tables.show_compare({**report, "metric": "top1", "uniform": [floats, fixed]})
    text = lines(capsys)
    wanted = ["ilp", "0.750", "0.500", "0.0", "%", "1.25", "1.50", "91.5", "%", "0.250"]
    assert any(line.split()[:10] == wanted for line in text)
    assert "uniform fp32: 93.5 %, held loss 0" in text
    assert "uniform w8a8: 1.75 ms predicted, 92.5 %, held loss 0.0500" in text


def test_build(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_build(
        {
            "model": "m",
            "target": "local",
            "plan": {"a": "w8a8"},
            "size_bytes": 1e6,
            "weight_bytes": 2e3,
            "activation_bytes": 4_096,
            "artifacts": {"model.so": "out/model.so"},
        }
    )
    found = lines(capsys)
    assert "plan:     1 x w8a8" in found
    assert "model.so: out/model.so" in found


def test_run(capsys: pytest.CaptureFixture[str]) -> None:
    report: Report = {
        "folder": "out",
        "latency_ms": {"median": 1.25, "iqr": 0.01, "threads": 2},
        "load_ms": 10.0,
        "first_run_ms": 2.0,
        "samples": 4,
    }
    tables.show_run(report)
    found = lines(capsys)
    assert "latency:   1.25 ms (IQR 0.0100), 2 threads" in found
    assert any(line.startswith("accuracy:  not known: needs an array `labels`") for line in found)
    report["accuracy"] = {"metric": "top1", "value": 75.0, "hits": 3, "samples": 4}
    report["difference"] = {"largest_absolute": 0.5, "mean_relative_norm": 0.01}
    tables.show_run(report)
    found = lines(capsys)
    assert "top-1:      75.00 % (3/4)" in found and not any("not known" in line for line in found)
    assert "difference: largest 0.500, mean relative norm 1.0 %" in found
    report["profile"] = [
        {"operator": "a", "kernel": "add_0", "us": 2.0},
        {"operator": "b", "kernel": "conv2d_1", "us": 6.0},
    ]
    tables.show_run(report)
    rows = [line.split() for line in lines(capsys)[-3:]]
    assert rows == [
        ["operator", "kernel", "us", "share"],
        ["b", "conv2d_1", "6", "75.0", "%"],
        ["a", "add_0", "2", "25.0", "%"],
    ]


FEATURES = ["avx", "avx2", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vnni", "fma", "f16c"]
TARGET = {
    "name": "cascadelake",
    "aliases": ["another-name"],
    "features": FEATURES,
    "cores": 4,
    "caches": {"l1d_bytes": 32768, "l2_bytes": 1280 * 1024, "l3_bytes": None},
    "source": "the manual that its maker publishes, second edition, page 12",
    "runs_here": False,
    "lacking": FEATURES[2:8],
}


def test_targets(capsys: pytest.CaptureFixture[str]) -> None:
    row = {**TARGET, "name": "a", "aliases": ["b"], "features": ["f1", "f2"], "lacking": ["f2"], "source": "manual"}
    tables.show_targets({"targets": [row]})
    assert lines(capsys)[-1].split() == ["a", "=", "b", "no:", "lacks", "f2", "4", "32K/1.25M/-", "f1", "f2", "manual"]


@pytest.mark.parametrize(
    ("columns", "left_out"),
    [
        (300, None),
        (140, None),
        (120, "source"),
        (100, "source, features"),
        (60, "source, features, L1d/L2/L3, cores"),
    ],
)
def test_a_terminal_without_room_gets_fewer_columns_and_their_names(
    monkeypatch: pytest.MonkeyPatch, columns: int, left_out: str | None
) -> None:
    terminal, raw = on_terminal(monkeypatch, columns, "utf-8")
    tables.show_targets({"targets": [TARGET]})
    terminal.flush()
    shown = without_styles(raw.getvalue().decode()).splitlines()
    assert max(map(len, shown)) <= columns
    said = " ".join(line.strip() for line in shown if line[:1] not in "│╭├╰")
    assert said == (f"no room for: {left_out} (a wider window, a pipe and --json have them)" if left_out else "")
    headers = "".join(shown[1:3])
    for name in ("target", "runs", "cores", "L1d/L2/L3", "features", "source"):
        assert (name in headers) == (name not in (left_out or "")), name


def test_columns_given_hold_in_a_pipe_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tables.show_targets({"targets": [TARGET]})
    assert len(lines(capsys)) == 2
    monkeypatch.setenv("COLUMNS", "70")
    tables.show_targets({"targets": [TARGET]})
    found = lines(capsys)
    assert max(map(len, found)) <= 70 and any("no room for: source, features" in line for line in found)


@pytest.mark.parametrize("no_color", [True, False])
def test_colours_only_on_a_terminal_that_may_have_them(monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    terminal, raw = on_terminal(monkeypatch, 80, "utf-8")
    if not no_color:
        monkeypatch.delenv("NO_COLOR")
    tables.show_doctor({"ok": True, "checks": [{"name": "Python", "status": "ok", "detail": "3.12", "mend": ""}]})
    terminal.flush()
    assert ("\x1b[32m" in raw.getvalue().decode()) is not no_color


def test_long_facts_are_folded_below_their_first_word(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, raw = on_terminal(monkeypatch, 40, "utf-8")
    checks = [{"name": "CPU", "status": "warning", "detail": "word " * 20, "mend": "some " * 20}]
    tables.show_doctor({"ok": True, "checks": checks})
    terminal.flush()
    first, second, *rest = without_styles(raw.getvalue().decode()).splitlines()
    assert first.startswith("warning CPU: word word") and second.startswith(" " * 8 + "word word")
    assert max(map(len, (first, second, *rest))) <= 40 and any(line.startswith(" " * 8 + "-> some") for line in rest)


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    checks = [
        {"name": "Python", "status": "ok", "detail": "3.12", "mend": ""},
        {"name": "TVM", "status": "missing", "detail": "not\nthere", "mend": "pip install it"},
    ]
    tables.show_doctor({"ok": False, "checks": checks})
    assert lines(capsys) == ["ok      Python: 3.12", "missing TVM: not there", "        -> pip install it"]
