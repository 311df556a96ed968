"""What other engines took for the same network, as far as `bench` has measured them on this device."""

from __future__ import annotations

from tvm_mpq.report.contract import OptimizeReport, PeerTime
from tvm_mpq.report.text import number


def fastest_int8(report: OptimizeReport) -> PeerTime | None:
    """The fastest of them at 8 bit; None where none was measured."""
    found = [p for p in report.get("peers", []) if p["engine"].endswith("int8")]
    return min(found, key=lambda p: p["latency_ms"], default=None)


def facts(report: OptimizeReport) -> list[tuple[str, str]]:
    """Name and one line of text; empty where nothing is known."""
    peer = fastest_int8(report)
    if peer is None:
        return []
    text = f"{peer['engine']}: {number(peer['latency_ms'], ' ms')}, measured by bench on {peer['measured']}"
    return [("fastest other engine at 8 bit", f"{text}; not in turns with these networks, as bench does")]
