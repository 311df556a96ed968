"""The answer of `check`, and how it is shown."""

from __future__ import annotations

from typing import TypedDict

from tvm_mpq.report.console import print_facts, standard_output
from tvm_mpq.report.contract import SpeedupFigures
from tvm_mpq.report.summary import metric_name
from tvm_mpq.report.text import number

HOLDS, WORSE, UNSETTLED = "holds", "worse", "unsettled"


class CheckedLatency(TypedDict):
    """status: `holds`, `worse`, or `unsettled`: the rounds show neither. limit: of the ratio.

    ratio: time now over time then, its median and interval, each end right with 95 %. then_ms: by the report, or of the
    other folder; now_ms: median now. pairing: `rounds` = both were timed in turns now; `sentinel` = each in turns with
    the same small kernel, then and now. doubts: why such times settle nothing, whatever they are.
    """

    status: str
    doubts: list[str]
    limit: float
    ratio: SpeedupFigures
    then_ms: float | None
    now_ms: float
    pairing: str


class CheckedAccuracy(TypedDict):
    """status: `holds` or `worse`. drop: accuracy points lost, or points of relative error gained; limit: of it.

    then, now: by the metric, in percent. better, worse: images that only the answers of now, or only those of then,
    have right; both 0 for relative errors. samples: images or samples that both were counted on.
    """

    status: str
    limit: float
    metric: str
    then: float
    now: float
    drop: float
    better: int
    worse: int
    samples: int


class _CheckCore(TypedDict):
    folder: str
    against: str
    status: str
    notes: list[str]


class CheckReport(_CheckCore, total=False):
    """against: what was compared with, the folder's report.json or another folder. status: the worst of the parts'."""

    latency: CheckedLatency
    accuracy: CheckedAccuracy


WORDS = {HOLDS: "holds", WORSE: "got worse", UNSETTLED: "not settled"}


def show_check(report: CheckReport) -> None:
    """Verdict first, then the numbers it stands on."""
    facts = [("folder", report["folder"]), ("beside", report["against"]), ("verdict", WORDS[report["status"]])]
    if latency := report.get("latency"):
        ratio = latency["ratio"]
        facts += [("doubt", doubt) for doubt in latency["doubts"]]
        facts.append(
            (
                "latency",
                f"{WORDS[latency['status']]}: {ratio['median']:.3f} of what it was ({ratio['low']:.3f} to "
                f"{ratio['high']:.3f}, {ratio['rounds']} rounds; allowed {number(latency['limit'])}), "
                f"{number(latency['now_ms'], ' ms')} now, {number(latency['then_ms'], ' ms')} then",
            )
        )
    if found := report.get("accuracy"):
        name = metric_name(found["metric"])
        counted = (
            f", {found['better']} better and {found['worse']} worse" if found["metric"] != "relative_error" else ""
        )
        facts.append(
            (
                "accuracy",
                f"{WORDS[found['status']]}: {name} {found['now']:.2f} % now, {found['then']:.2f} % then, on "
                f"{found['samples']} samples{counted} (may lose {number(found['limit'])} points)",
            )
        )
    print_facts(standard_output(), [*facts, *(("note", note) for note in report["notes"])])
