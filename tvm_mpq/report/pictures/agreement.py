"""Predicted against measured latency of the three networks, with the spread of the measured one."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.report.contract import OptimizeReport
from tvm_mpq.report.speed import NETWORKS
from tvm_mpq.report.text import is_number, number, percent, ratio


@dataclass(frozen=True)
class AgreementRow:
    """One network; shares of the width: the measured median, its interquartile range, the prediction (None = none)."""

    name: str
    measured: float
    spread: tuple[float, float]
    predicted: float | None
    text: str


def agreement(report: OptimizeReport) -> list[AgreementRow]:
    """The interquartile range is drawn centred on the median: its ends are not in the report."""
    measured, predicted = report.get("latency_ms", {}), report.get("predicted_ms", {})
    iqr = report.get("latency_iqr_ms", {})
    found = [(key, name, measured[key]) for key, name in NETWORKS.items() if is_number(measured.get(key))]
    spreads = {key: x if is_number(x := iqr.get(key)) else 0.0 for key, _, _ in found}
    guesses = {key: x for key, _, _ in found if is_number(x := predicted.get(key))}
    widest = max([ms + spreads[key] / 2 for key, _, ms in found] + list(guesses.values()), default=0.0)
    if widest <= 0:
        return []
    rows = []
    for key, name, ms in found:
        low, high = max(0.0, ms - spreads[key] / 2), ms + spreads[key] / 2
        error = ratio(guesses.get(key), ms)
        said = f"{number(ms, ' ms')} measured (IQR {number(iqr.get(key))})"
        if error is not None:
            said += f", {number(guesses[key], ' ms')} predicted ({percent(error - 1, signed=True)})"
        place = guesses[key] / widest if key in guesses else None
        rows.append(AgreementRow(name, ms / widest, (low / widest, high / widest), place, said))
    return rows
