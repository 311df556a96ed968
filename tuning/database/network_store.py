"""Whole-network runs, kept beside the latencies: what a plan was foretold to cost and what it did cost."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from dataclasses import dataclass

from tvm_mpq.errors import FileFormatError, InvalidValueError
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.database.store import instant_us


@dataclass(frozen=True)
class NetworkRun:
    """One whole network, measured. `predicted_us` is what the plan had foretold, when it is known."""

    plan: str  # hash of the plan, or a name such as `uniform w8a8` joined with the model's fingerprint
    device: str
    target: str
    model: str  # fingerprint
    versions: str  # of TVM and of the kernels
    median_us: float
    iqr_us: float
    repeats: int
    load_ms: float
    first_run_us: float
    predicted_us: float | None
    measured_at: str  # ISO 8601, UTC


_COLUMNS = [f.name for f in dataclasses.fields(NetworkRun)]
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_COLUMNS, (str,)),
    **dict.fromkeys(("median_us", "iqr_us", "load_ms", "first_run_us"), (int, float)),
    "repeats": (int,),
    "predicted_us": (int, float, type(None)),
}


class NetworkStore:
    """Whole-network runs in a latency database; per (plan, device) the newest."""

    def __init__(self, database: LatencyDatabase) -> None:
        self._store = database.store

    def put(self, run: NetworkRun) -> None:
        """Store and commit at once. Raises InvalidValueError for NaN, infinity or negative times."""
        for name in ("median_us", "iqr_us", "load_ms", "first_run_us", "predicted_us"):
            value = getattr(run, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidValueError(f"{name} must be finite and 0 or more (got {value} for plan {run.plan!r})")
        row = (*(getattr(run, name) for name in _COLUMNS), instant_us(run.measured_at))
        marks = ", ".join("?" * len(row))
        query = (
            f"INSERT INTO whole_network ({', '.join(_COLUMNS)}, at_us) VALUES ({marks}) ON CONFLICT (plan, device) "
            f"DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in (*_COLUMNS[2:], 'at_us'))} "
            "WHERE excluded.at_us >= whole_network.at_us"
        )
        with self._store.translated() as connection:
            connection.execute(query, row)

    def get(self, plan: str, device: str) -> NetworkRun | None:
        """The newest run of this plan on this very device."""
        found = [run for run in self.all(device) if run.plan == plan]
        return found[0] if found else None

    def all(self, device: str) -> list[NetworkRun]:
        """All runs on this very device, oldest first."""
        query = f"SELECT {', '.join(_COLUMNS)} FROM whole_network WHERE device = ? ORDER BY at_us, rowid"
        with self._store.translated() as connection:
            found = [NetworkRun(*row) for row in connection.execute(query, (device,)).fetchall()]
        for run in found:
            if any(not isinstance(getattr(run, name), kind) for name, kind in _KINDS.items()):
                raise FileFormatError(f"{str(self._store.path)!r} holds a damaged network run: {reprlib.repr(run)}")
        return found
