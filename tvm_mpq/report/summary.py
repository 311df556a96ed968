"""What an `optimize` report says, as rows and sentences that both the terminal and the HTML page show.

In one file: terminal and page say the same sentences, which refer to each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tvm_mpq.report import condition, judging, text
from tvm_mpq.report.answers import BuildReport, MethodRow
from tvm_mpq.report.contract import CandidateFigures, OptimizeReport
from tvm_mpq.report.speed import NETWORKS, SpeedComparison, share_interval
from tvm_mpq.report.text import is_number, number, percent, ratio
from tvm_mpq.schema import precision_counts

METRICS = {"top1": "top-1", "agreement": "agreement with fp32", "relative_error": "error relative to fp32"}

PREDICTION_ERROR = 0.15
"""Relative error of the predicted whole-network latency above which the report warns."""


@dataclass(frozen=True)
class NetworkRow:
    """One built network, all cells as text."""

    key: str
    name: str
    accuracy: str
    measured: str
    predicted: str
    size: str
    weights: str
    memory: str
    speedup: str


def network_rows(report: OptimizeReport) -> list[NetworkRow]:
    """fp32, uniform 8 bit and mixed, as far as the report has them."""
    latency = report.get("latency_ms", {})
    rows = []
    for key, name in NETWORKS.items():
        if key not in latency:
            continue
        predicted = report.get("predicted_ms", {}).get(key)
        error = ratio(predicted, latency[key])
        rows.append(
            NetworkRow(
                key,
                name,
                accuracy(report, key),
                f"{number(latency[key])} (IQR {number(report.get('latency_iqr_ms', {}).get(key))})",
                number(predicted) + (f" ({percent(error - 1, signed=True)})" if error is not None else ""),
                text.size(report.get("size_bytes", {}).get(key)),
                text.size(report.get("weight_bytes", {}).get(key)),
                text.size(report.get("activation_bytes", {}).get(key)),
                SpeedComparison(report, key, "int8").text(),
            )
        )
    return rows


def metric(report: OptimizeReport) -> str:
    return metric_name(report.get("accuracy", {}).get("metric", "accuracy"))


def metric_name(name: str) -> str:
    """What people call it."""
    return METRICS.get(name, name)


def accuracy(report: OptimizeReport, key: str) -> str:
    """Of one of the three networks, as `accuracy_text`."""
    found = report.get("accuracy", {})
    return accuracy_text(found.get("metric"), found.get(key), found.get("hits", {}).get(key), found.get("samples"))


def accuracy_text(metric: str | None, value: object, hits: int | None, samples: int | None) -> str:
    """`98.52 % (531/539)`."""
    if not is_number(value):
        return text.NOTHING
    if metric == "relative_error":
        return f"{number(value)} %"
    return f"{value:.2f} %" + (f" ({hits}/{samples})" if hits is not None and samples else "")


def plan_counts(plan: dict[str, str]) -> str:
    """`5 x w4a8, 3 x w8a8`."""
    return precision_counts(plan.values()) or "no quantizable operator"


def import_check(report: OptimizeReport | BuildReport) -> str:
    """How the import was compared with an independent evaluator."""
    check = report.get("import_check")
    if check is None:
        return text.NOTHING
    if check["skipped"]:
        return f"not verified: {check['skipped']}"
    return (
        f"as {check['evaluator']} within {number(check['error'])} of the outputs' spread, {number(check['seconds'])} s"
    )


def solver_line(report: OptimizeReport) -> str:
    """Name, status, objective, bound, gap."""
    s = report.get("solver", {})
    if not s:
        return text.NOTHING
    return (
        f"{s.get('name', 'solver')}: {s.get('status', 'unknown')}, objective {number(s.get('objective'))}, "
        f"bound {number(s.get('bound'))}, gap {percent(s.get('gap'))}, {number(s.get('seconds'), ' s')}"
    )


def entries_line(entries: Mapping[str, int]) -> str:
    """Where the latency table's entries came from."""
    if "simulated" in entries:
        return f"{entries['simulated']} operators simulated now, {entries.get('cached', 0)} before (database)"
    now, before, predicted = (entries.get(source, 0) for source in ("measured", "cached", "predicted"))
    return f"{now} measured now, {before} measured before (database), {predicted} predicted"


@dataclass(frozen=True)
class Limit:
    """One limit of the budget. got and allowed as text; met: None when it cannot be told.

    between: the interval of what was got, as text, where the limit lies within it.
    """

    name: str
    allowed: str
    got: str
    met: bool | None
    between: str = ""

    def __str__(self) -> str:
        verdict = {True: "met", False: "NOT met", None: "not checked"}[self.met]
        if self.between:
            verdict = f"not settled ({self.between}): repeat it on a quiet machine"
        return f"{self.name} at most {self.allowed}: {self.got}, {verdict}"


def limits(report: OptimizeReport) -> list[Limit]:
    """The budget (fields of `schema.Budget`) against what was measured."""
    budget = report.get("budget") or {}
    latency = report.get("latency_ms", {})
    weights = report.get("weight_bytes", {}).get("mixed")
    found = report.get("accuracy", {})
    factor = SpeedComparison(report, "mixed", "int8").factor  # round by round, as the claim beside it
    share = 1 / factor if factor else None
    drop: float | None = None
    judged = report.get("judgement", {}).get("chosen")
    if judged:
        drop = judged["high"]
    elif is_number(found.get("fp32")) and is_number(found.get("mixed")):
        drop = found["fp32"] - found["mixed"]
        drop = -drop if found.get("metric") == "relative_error" else drop
    megabytes = ratio(weights, 1e6)
    rows = (
        ("latency_ratio", "latency as a share of uniform 8 bit", share, ""),
        ("latency_ms", "latency", latency.get("mixed"), " ms"),
        ("size_mb", "weights", megabytes, " MB"),
        ("max_drop", "accuracy drop" + (", upper bound," if judged else ""), drop, " points"),
    )
    return [
        Limit(
            name,
            number(most, unit),
            number(got, unit),
            got <= most if is_number(got) else None,
            _between(report, key, most),
        )
        for key, name, got, unit in rows
        if is_number(most := budget.get(key))
    ]


def _between(report: OptimizeReport, limit: str, most: float) -> str:
    """The interval of the mixed network's share, where the limit lies within it."""
    interval = share_interval(report) if limit == "latency_ratio" else None
    return f"{number(interval[0])} to {number(interval[1])}" if interval and interval[0] <= most < interval[1] else ""


def cautions(report: OptimizeReport) -> list[str]:
    """What a reader must know before believing the numbers."""
    notes = _nearest(report)
    calibration, found = report.get("calibration", {}), report.get("accuracy", {})
    if calibration.get("synthetic"):
        notes.append("Calibrated on synthetic data (standard normal): accuracy says little; give data with --data.")
    if found.get("on_calibration_data"):
        notes.append(
            "Accuracy was measured on calibration data, by which the plan was chosen too; give other data with --eval."
        )
    if found.get("metric") == "agreement":
        notes.append("No labels were given: accuracy is agreement with the fp32 network.")
    notes += judging.cautions(report)
    for key, name in NETWORKS.items():
        error = ratio(report.get("predicted_ms", {}).get(key), report.get("latency_ms", {}).get(key))
        if error is not None and abs(error - 1) > PREDICTION_ERROR:
            off = percent(error - 1, signed=True)
            notes.append(f"The latency predicted for {name} is {off} off what was measured.")
    if report.get("solver", {}).get("status") == "time_limit":
        notes.append("The solver ran out of time: a better plan may exist; allow more with --solver-seconds.")
    return notes + condition.cautions(report)


def _nearest(report: OptimizeReport) -> list[str]:
    asked, kept = report.get("budget") or {}, report.get("nearest_budget")
    if not kept:
        return []
    changes = [f"{k} {number(kept.get(k))} in place of {number(v)}" for k, v in asked.items() if kept.get(k) != v]
    return [f"No plan keeps the budget; this is the nearest: {', '.join(changes)}."]


def time_of(candidate: CandidateFigures) -> float | None:
    """Least measured microseconds of a candidate over the formats it can emit."""
    return min((t for t in candidate.get("latency_us", {}).values() if is_number(t)), default=None)


def labels(report: OptimizeReport) -> list[str]:
    """All candidate precisions, floats first, then by falling bits."""
    return by_falling_bits({label for o in report.get("operators", []) for label in o.get("candidates", {})})


def by_falling_bits(found: Iterable[str]) -> list[str]:
    """Precisions, floats first."""
    floats = {"fp32": 0, "bf16": 1, "fp16": 2}
    return sorted(
        found, key=lambda label: (floats.get(label, len(floats)), [-int(d) for d in label if d.isdigit()], label)
    )


def answers(report: OptimizeReport) -> Iterator[tuple[str, str]]:
    """The three questions that a first user asks, answered from this report's numbers."""
    yield "How was the latency table built?", _table_answer(report)
    yield "Is mixed precision faster than 8 bit everywhere here, and why?", mixed_answer(report)
    yield "Is 8 bit faster than fp32 here?", int8_answer(report)


def _table_answer(report: OptimizeReport) -> str:
    entries = entries_line(report.get("latency_entries", {}))
    measured, predicted = report.get("latency_ms", {}).get("mixed"), report.get("predicted_ms", {}).get("mixed")
    share = ratio(predicted, measured)
    check = (
        f" For the plan built here the table predicts {number(predicted, ' ms')}; the whole network was then "
        f"measured at {number(measured, ' ms')} ({percent(share - 1, signed=True)})."
        if share is not None
        else ""
    )
    return (
        "Every distinct operator shape was compiled at each precision, and every boundary between formats, with the "
        f"very code the library holds, and timed on this device. Entries: {entries}.{check}"
    )


def mixed_answer(report: OptimizeReport) -> str:
    """Whether mixed is faster than uniform 8 bit, and what the table says of the reasons."""
    first = SpeedComparison(report, "mixed", "int8").claim()
    if not first:
        return "Not measured."
    plan = report.get("plan", {})
    if plan and set(plan.values()) == {"w8a8"}:
        return f"The plan chosen is 8 bit everywhere: within this budget nothing else was better. {first}"
    changed, saved, offered, faster = 0, 0.0, 0, 0
    for operator in report.get("operators", []):
        times_us = {label: time_of(c) for label, c in operator.get("candidates", {}).items()}
        base = times_us.get("w8a8")
        narrow = [t for label, t in times_us.items() if label not in ("fp32", "bf16", "fp16", "w8a8") and t is not None]
        if base is not None and narrow:
            offered += 1
            faster += min(narrow) < base
        chosen = times_us.get(operator.get("precision"))
        if operator.get("precision") != "w8a8" and base is not None and chosen is not None:
            changed += 1
            saved += base - chosen
    effect = "saves" if saved >= 0 else "costs"
    weights = report.get("weight_bytes", {})
    smaller = ratio(weights.get("mixed"), weights.get("int8"))
    lines = [
        first,
        f"{changed} operators do not run at 8 bit; by the table that {effect} {number(abs(saved), ' us')} in them.",
        f"Of {offered} operators that can go below 8 bit, {faster} are faster there on this CPU."
        if offered
        else "No operator has a kernel below 8 bit on this CPU.",
    ]
    boundaries = report.get("boundaries")
    if boundaries is not None:
        lines.append(f"Conversions between formats in the plan: {len(boundaries)}.")
    if smaller is not None:
        lines.append(f"Weights take {percent(smaller)} of what they take at 8 bit.")
    return " ".join(lines)


def int8_answer(report: OptimizeReport) -> str:
    """Whether uniform 8 bit is faster than fp32, and which operators are not."""
    first = SpeedComparison(report, "int8", "fp32").claim()
    if not first:
        return "Not measured."
    slower = [
        text.one_line(o.get("name"))
        for o in report.get("operators", [])
        if {"fp32", "w8a8"} <= set(o.get("candidates", {}))
        and (time_of(o["candidates"]["w8a8"]) or 0.0) > (time_of(o["candidates"]["fp32"]) or float("inf"))
    ]
    if not slower:
        return f"{first} Every operator that has both is at least as fast at 8 bit."
    shown = ", ".join(slower[:5]) + (f" and {len(slower) - 5} more" if len(slower) > 5 else "")
    return f"{first} Faster in fp32 taken alone: {shown}."


def without_plan(rows: Sequence[MethodRow]) -> list[str]:
    """A line for each reason why methods found no plan, such as `ilp, haq; 0.9, 0.8: reason`: methods, then budgets."""
    found: dict[str, list[MethodRow]] = {}
    for row in rows:
        if row["reason"]:
            found.setdefault(row["reason"], []).append(row)
    lines = []
    for reason, some in found.items():
        methods = dict.fromkeys(row["method"] for row in some)
        budgets = dict.fromkeys(f"{row['budget']:g}" for row in some)
        lines.append(f"{', '.join(methods)}; {', '.join(budgets)}: {reason}")
    return lines
