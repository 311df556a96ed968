"""The machines by the names that `--latency-source` takes."""

from __future__ import annotations

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.simulators import mpic
from tvm_mpq.simulators.simulator import Simulator

MEASURED_HERE = "measured"
"""The source that is no simulator: latencies of the target, measured (or predicted from measurements)."""


def names() -> tuple[str, ...]:
    """All that a latency source may be called."""
    return (MEASURED_HERE, *(f"mpic:{machine}".rstrip(":") for machine in mpic.MACHINES))


def with_energy() -> tuple[str, ...]:
    """Those whose costs have energies."""
    found = ((name, simulator_named(name)) for name in names())
    return tuple(name for name, simulator in found if simulator is not None and simulator.gives_energy)


def simulator_named(name: str) -> Simulator | None:
    """The simulator of a latency source, None for the one that measures.

    Raises
    ------
    InvalidValueError
        For an unknown name.
    """
    if name == MEASURED_HERE:
        return None
    tool, _, machine = name.partition(":")
    if tool == "mpic" and machine in mpic.MACHINES:
        return mpic.MACHINES[machine]
    raise InvalidValueError(f"latency_source must be one of {', '.join(names())} (got {name!r})")
