"""Whether one network is faster than another: said only where the measured rounds carry it."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.report.contract import OptimizeReport, SpeedupFigures
from tvm_mpq.report.text import is_number, number, percent, ratio, times

NETWORKS = {"fp32": "fp32", "int8": "uniform 8 bit", "mixed": "mixed"}
"""Key in the report -> what people call it, in the order shown."""

SAME_SPEED = 0.02
"""Relative difference of two measured latencies that is called no difference."""

WIDEST = 1.25
"""Upper over lower end of an interval beyond which no factor is stated."""

MOST_SCATTER = 0.2
"""Interquartile range over median beyond which a network's times are not believed."""

UNEXPECTED = 1.25
"""Measured speed-up over the one the tables expect, or the inverse, that a disturbed machine is blamed for."""


@dataclass(frozen=True)
class SpeedComparison:
    """One network against another, mostly a slower one. fast, slow: keys of the report's networks."""

    report: OptimizeReport
    fast: str
    slow: str

    @property
    def figures(self) -> SpeedupFigures | None:
        """None in reports of older versions, or with too few rounds. Of the same rounds whichever way it is asked."""
        known = self.report.get("speedups", {})
        turned = known.get(f"{self.slow}_to_{self.fast}")
        if turned is None:
            return known.get(f"{self.fast}_to_{self.slow}")
        median, low, high = turned["median"], turned["low"], turned["high"]
        if not all(is_number(x) and x > 0 for x in (median, low, high)):
            return None
        return {"median": 1 / median, "low": 1 / high, "high": 1 / low, "rounds": turned["rounds"]}

    @property
    def factor(self) -> float | None:
        """How many times as fast."""
        latency = self.report.get("latency_ms", {})
        return self.figures["median"] if self.figures else ratio(latency.get(self.slow), latency.get(self.fast))

    def text(self) -> str:
        """`1.25x (1.22 to 1.27)`."""
        found = self.figures
        return times(self.factor) + (f" ({found['low']:.2f} to {found['high']:.2f})" if found else "")

    def doubts(self) -> list[str]:
        """Why the rounds settle nothing; empty where they do."""
        report, found = self.report, self.figures
        latency, iqr = report.get("latency_ms", {}), report.get("latency_iqr_ms", {})
        doubts = []
        for key in (self.slow, self.fast):
            scatter = ratio(iqr.get(key), latency.get(key))
            if scatter is not None and scatter > MOST_SCATTER:
                doubts.append(f"the times of {NETWORKS[key]} scatter by {percent(scatter)}")
        if found and found["high"] > WIDEST * found["low"]:
            doubts.append(f"the rounds put it between {times(found['low'])} and {times(found['high'])}")
        elif found and found["low"] < 1 < found["high"] and not _alike(found["low"], found["high"]):
            doubts.append(f"either may be faster: {times(found['low'])} to {times(found['high'])}")
        expected = self._expected()
        disturbed = _disturbance(report)
        if disturbed and expected and self.factor and not 1 / UNEXPECTED < self.factor / expected < UNEXPECTED:
            doubts.append(f"the tables expect {times(expected)}")
        if doubts and disturbed:
            doubts.append(f"the device had {disturbed}")
        return doubts

    def claim(self) -> str:
        """A sentence or two; empty where nothing was measured."""
        latency = self.report.get("latency_ms", {})
        pair = f"{number(latency.get(self.fast), ' ms')} against {number(latency.get(self.slow), ' ms')}"
        factor = self.factor
        if factor is None:
            return ""
        if doubts := self.doubts():
            return (
                f"Not settled ({pair}): {'; '.join(doubts)}. Repeat it on a quiet machine: stop other programs and "
                "give the same command again, which times the networks anew."
            )
        if _alike(factor, factor):
            return f"No difference to speak of: {self.text()}, {pair}."
        return f"{'Yes' if factor > 1 else 'No'}: {self.text()} as fast, {pair}."

    def _expected(self) -> float | None:
        predicted = self.report.get("predicted_ms", {})
        return ratio(predicted.get(self.slow), predicted.get(self.fast))


def _alike(low: float, high: float) -> bool:
    return low >= 1 - SAME_SPEED and high <= 1 + SAME_SPEED


def _disturbance(report: OptimizeReport) -> str:
    """What the device said of itself before the work; its load afterwards is the work's own."""
    readings = report.get("health")
    return ", ".join(readings["start"].get("warnings", [])) if readings else ""


def share_interval(report: OptimizeReport) -> tuple[float, float] | None:
    """Between what the mixed network's share of uniform 8 bit's latency lies."""
    found = SpeedComparison(report, "mixed", "int8").figures
    if not found or not (is_number(found["low"]) and is_number(found["high"])):
        return None
    return 1 / found["high"], 1 / found["low"]
