"""The report as one HTML file: no scripts, nothing loaded from elsewhere, every name escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tvm_mpq.errors import OutputError
from tvm_mpq.report import condition, summary, text
from tvm_mpq.report.svg import latency_bars
from tvm_mpq.report.text import NOTHING, number, percent, ratio

Report = dict[str, Any]

STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2530; background: #fff; max-width: 72rem; margin: 2rem auto;
       padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
h3 { font-size: 1rem; margin: 1rem 0 .2rem } p { margin: .2rem 0 .6rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem }
th, td { border: 1px solid #d4dae1; padding: .3rem .6rem; text-align: left; vertical-align: top }
th { background: #f1f4f7 } td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.chosen { background: #d9f0df; font-weight: 600 } .quiet { color: #5b6875; font-size: .85rem; font-weight: 400 }
.note { border-left: 4px solid #d49a00; background: #fff8e1; padding: .4rem .8rem; margin: .4rem 0 }
.bad { color: #a11a1a; font-weight: 600 } .good { color: #17692f; font-weight: 600 }
svg text { font: 12px system-ui, sans-serif } code { font-size: .85rem }
"""


def write_report(report: Report, path: str | Path) -> None:
    """Write the page of an `optimize` report.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    page = render(report)
    try:
        # A name may hold a lone surrogate (undecodable file names do), which UTF-8 cannot.
        Path(path).write_text(page, encoding="utf-8", errors="replace")
    except OSError as e:
        raise OutputError(f"cannot write report {str(path)!r}: {e.strerror}") from e


def render(report: Report) -> str:
    """The whole page."""
    model = escape(str(report.get("model", "network")))
    parts = [
        f"<h1>{model}</h1>",
        f"<p class=quiet>Target {escape(str(report.get('target', NOTHING)))}. Measured on "
        f"{escape(str(report.get('device', NOTHING)))}.</p>",
        *(f"<p class=note>{escape(note)}</p>" for note in summary.cautions(report)),
        _networks(report),
        _budget(report),
        "<h2>Three questions</h2>",
        *(f"<h3>{escape(q)}</h3><p>{escape(a)}</p>" for q, a in summary.answers(report)),
        _check(report),
        _operators(report),
        _method(report),
        _device(report),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{model} - tvm-mpq</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _cell(content: str, kind: str = "") -> str:
    return f"<td{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{content}</td>"


def _table(headers: Sequence[str], rows: Iterable[str]) -> str:
    """rows: the cells of each, as HTML."""
    head = "".join(f"<th>{escape(h)}</th>" for h in headers)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"


def _networks(report: Report) -> str:
    rows = [
        _cell(escape(r.name))
        + "".join(_cell(escape(c), "n") for c in (r.accuracy, r.measured, r.size, r.weights, r.memory, r.speedup))
        for r in summary.network_rows(report)
    ]
    headers = ("network", summary.metric(report), "latency, ms", "library", "weights", "tensors", "speed against 8 bit")
    return "<h2>Result</h2>" + _table(headers, rows)


def _budget(report: Report) -> str:
    colours = {True: "good", False: "bad", None: "quiet"}
    lines = [f"<p class={colours[limit.met]}>{escape(str(limit))}</p>" for limit in summary.limits(report)]
    return "<h2>Budget</h2>" + "".join(lines) if lines else ""


def _check(report: Report) -> str:
    """Whole-network latency: what the table said against what the clock said."""
    measured, predicted = report.get("latency_ms", {}), report.get("predicted_ms", {})
    iqr = report.get("latency_iqr_ms", {})
    rows = []
    for key, name in summary.NETWORKS.items():
        if key in measured:
            share = ratio(predicted.get(key), measured[key])
            error = NOTHING if share is None else percent(share - 1, signed=True)
            cells = (number(predicted.get(key)), number(measured[key]), number(iqr.get(key)), error)
            rows.append(_cell(escape(name)) + "".join(_cell(c, "n") for c in cells))
    headers = ("network", "predicted, ms", "measured, ms", "IQR, ms", "error of prediction")
    return "<h2>Whole network: predicted and measured</h2>" + _table(headers, rows)


def _operators(report: Report) -> str:
    """Bars of latency share, then every operator with all its candidates."""
    operators = report.get("operators", [])
    if not operators:
        return "<h2>Operators</h2><p>The network has no quantizable operator.</p>"
    labels = summary.labels(report)
    rows = []
    for operator in operators:
        name, key = str(operator.get("name")), str(operator.get("workload", ""))
        cells = [
            _cell(escape(name)),
            _cell(f"<span title={chr(34)}{escape(key)}{chr(34)}>{escape(text.workload(key))}</span>"),
            _cell(escape(str(operator.get("precision", NOTHING)))),
        ]
        for label in labels:
            candidate = operator.get("candidates", {}).get(label)
            if candidate is None:
                cells.append(_cell(NOTHING, "n"))
                continue
            time = number(summary.time_of(candidate), " µs")
            loss = f"<br><span class=quiet>loss {number(candidate.get('loss'))}</span>"
            cells.append(_cell(time + loss, "n chosen" if label == operator.get("precision") else "n"))
        rows.append("".join(cells))
    return (
        "<h2>Where the time goes</h2>"
        "<p class=quiet>Measured latency of each quantizable operator at its chosen precision.</p>"
        + latency_bars(operators)
        + "<h2>Operators</h2>"
        "<p class=quiet>Measured latency and estimated loss of every candidate; the chosen one is marked.</p>"
        + _table(("operator", "workload", "bits", *labels), rows)
    )


def _method(report: Report) -> str:
    calibration = report.get("calibration", {})
    tried = report.get("plans_tried", [])
    data = "synthetic data (standard normal)" if calibration.get("synthetic") else "the user's data"
    samples, observer = calibration.get("samples", NOTHING), calibration.get("observer", NOTHING)
    facts = [
        ("Plan", summary.plan_counts(report.get("plan", {}))),
        ("Solver", summary.solver_line(report)),
        ("Plans run end to end before choosing", str(len(tried)) if tried else ""),
        ("Latency entries", summary.entries_line(report)),
        ("Conversions between formats", ", ".join(report.get("boundaries", [])) or "none"),
        ("Calibration", f"{samples} samples of {data}, observer {observer}"),
        ("Threads", str(report.get("threads", ""))),
        ("Device", str(report.get("device", ""))),
    ]
    rows = [_cell(escape(name)) + _cell(escape(value)) for name, value in facts if value]
    return "<h2>How this was found</h2>" + _table(("", ""), rows)


def _device(report: Report) -> str:
    """How the device was, and which boards served."""
    rows = [_cell(escape(name)) + _cell(escape(a)) + _cell(escape(b)) for name, a, b in condition.rows(report)]
    told = _table(("", "before", "after"), rows) if rows else "<p>It tells nothing of load, clock or temperature.</p>"
    boards = [f"<p>Board: {escape(name)}</p>" for name in condition.boards_used(report)]
    boards += [f"<p class=bad>Board {escape(lost)}</p>" for lost in condition.boards_lost(report)]
    return "<h2>The device</h2>" + "".join(boards) + told
