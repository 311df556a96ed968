"""Where the time goes: one bar an operator."""

from __future__ import annotations

from tvm_mpq.report.contract import OperatorChoice
from tvm_mpq.report.pictures.bars import Bar
from tvm_mpq.report.pictures.palette import parts, shade
from tvm_mpq.report.text import is_number, number, percent


def latency_bars(operators: list[OperatorChoice]) -> list[Bar]:
    """One bar an operator, in their order, coloured by the weights' bits."""
    times_us = [float(o["latency_us"]) if is_number(o.get("latency_us")) else 0.0 for o in operators]
    total, longest = sum(times_us), max(times_us, default=0.0)
    bars = []
    for operator, time_us in zip(operators, times_us, strict=True):
        precision = str(operator.get("precision"))
        share = percent(time_us / total) if total > 0 else "-"
        bars.append(
            Bar(
                str(operator.get("name")),
                0.0,
                time_us / longest if longest > 0 else 0.0,
                shade(parts(precision)[0]),
                f"{precision} · {share} · {number(time_us)} µs",
            )
        )
    return bars
