"""The answer of `optimize --dry-run`, and how it is shown."""

from __future__ import annotations

from typing import TypedDict

from tvm_mpq.report.console import print_facts, standard_output
from tvm_mpq.report.progress import duration


class KernelCounts(TypedDict):
    """Of the kernels that the network can need; what is neither known nor measured is predicted."""

    needed: int
    known: int
    to_measure: int


class MeasuringPace(TypedDict):
    """Seconds in which so many kernels were compiled, checked and measured."""

    kernels: int
    seconds: float


class ForecastReport(TypedDict):
    """precisions: how many unknown kernels at each. measuring_sec: by the pace of the last job on this device.

    rest_sec: what the last `optimize` of this network took beside; None = not known, as of the pace.
    """

    model: str
    target: str
    device: str
    kernels: KernelCounts
    precisions: dict[str, int]
    measuring_sec: float | None
    pace: MeasuringPace | None
    rest_sec: float | None
    database: str


def show_forecast(report: ForecastReport) -> None:
    counts, pace = report["kernels"], report["pace"]
    kernels = f"{counts['needed']} needed, {counts['known']} known, {counts['to_measure']} to be measured"
    unknown = "not known: no job on this device has measured 10 kernels yet"
    measuring = unknown
    if report["measuring_sec"] is not None and pace is not None:
        measuring = f"about {duration(report['measuring_sec'])}, as {pace['kernels']} kernels took "
        measuring += f"{duration(pace['seconds'])} last time"
    rest = "not known: this network was not optimized here before"
    if report["rest_sec"] is not None:
        rest = f"about {duration(report['rest_sec'])}, as last time"
    print_facts(
        standard_output(),
        [
            ("model", report["model"]),
            ("device", report["device"]),
            ("kernels", kernels),
            ("at precisions", ", ".join(f"{n} x {name}" for name, n in report["precisions"].items()) or "none"),
            ("measuring", measuring if counts["to_measure"] else "nothing to measure"),
            ("calibrating, judging, building", rest),
            ("database", report["database"]),
        ],
    )
