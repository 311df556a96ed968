"""The machines by the names that `--latency-source` takes."""

from __future__ import annotations

from collections.abc import Mapping

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.simulators import bitserial, mpic, scalesim, zigzag
from tvm_mpq.simulators.child import require
from tvm_mpq.simulators.simulator import Simulator, name_of

MEASURED_HERE = "measured"
"""The source that is no simulator: latencies of the target, measured (or predicted from measurements)."""

_MACHINES: Mapping[str, Simulator] = {
    name_of(machine): machine for machine in (*mpic.MACHINES, *bitserial.MACHINES, *zigzag.MACHINES, *scalesim.MACHINES)
}

_PACKAGES = {"zigzag": "zigzag-dse", "scalesim": "scalesim"}
"""What a tool is installed as, by the name under which it is imported."""


def names() -> tuple[str, ...]:
    """All that a latency source may be called."""
    return (MEASURED_HERE, *_MACHINES)


def with_energy() -> tuple[str, ...]:
    """Those whose costs have energies."""
    return tuple(name for name, machine in _MACHINES.items() if machine.gives_energy)


def simulator_named(name: str) -> Simulator | None:
    """The simulator of a latency source, None for the one that measures.

    Raises
    ------
    InvalidValueError
        For an unknown name.
    MissingDependencyError
        If its tool is not installed.
    """
    if name == MEASURED_HERE:
        return None
    if name not in _MACHINES:
        raise InvalidValueError(f"latency_source must be one of {', '.join(names())} (got {name!r})")
    machine = _MACHINES[name]
    if machine.tool in _PACKAGES:
        require(machine.tool, _PACKAGES[machine.tool], name)
    return machine
