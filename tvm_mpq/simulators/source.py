"""Tables filled by a simulator: the same requests as on a device, priced for a machine that is not here.

What a simulator says of an operator is kept in the latency database as `simulated`, under a device text that names
tool, version, machine and the digest of its configuration, so that no query for a device's measurements ever meets it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from tvm_mpq.costs.table import LatencyTable
from tvm_mpq.kernels.registry import Request
from tvm_mpq.schema import FLOAT_BITS, SIMULATED, Conv2dWorkload, LatencyKey, LatencyRecord, Progress
from tvm_mpq.simulators.movement import BYTE, moved_bits
from tvm_mpq.simulators.simulator import Operation, SimulatedCost, Simulator, name_of
from tvm_mpq.tuning.database.latencies import LatencyDatabase

CHANNEL_BYTES = 8
"""Of a bias and a multiplier, which every output channel has beside its weights."""


@dataclass
class SimulatedTable(LatencyTable):
    """A table of a machine that is not here. simulated: operators simulated now; `cached`: before."""

    simulated: int = 0

    def size_bytes(self, request: Request) -> int:
        """Weights packed as densely as their bits allow, which is not how kernels here pack them."""
        workload = request.workload
        assert isinstance(workload, Conv2dWorkload), "only operators with weights have a size"
        weights = workload.weight_count * request.precision.weight_bits
        return (weights + 7) // 8 + CHANNEL_BYTES * workload.out_channels

    @property
    def entries(self) -> dict[str, int]:
        return {**super().entries, "simulated": self.simulated}


@dataclass(frozen=True)
class SimulatedLatencies:
    """Implements `LatencySource`: what the database does not know is simulated.

    Floating-point convolutions have no entry: these machines compute with integers. Beside what the simulator says, a
    residual is a pass over memory, and so is what a float32 result has more than one of the operator's bits.
    """

    simulator: Simulator
    db: LatencyDatabase
    progress: Progress | None = None
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(timezone.utc))

    @property
    def target(self) -> str:
        """What the machine is called in records."""
        return name_of(self.simulator)

    @property
    def device(self) -> str:
        s = self.simulator
        return f"simulated|{s.tool} {s.version}|{s.machine}|{s.digest}"

    def table(self, requests: Sequence[Request], later: Collection[str] = ()) -> SimulatedTable:
        """An entry for each request but floating-point convolutions.

        Raises
        ------
        UnsupportedModelError
            For an operator that no simulator prices.
        MeasurementError
            If the simulator fails.
        """
        table = SimulatedTable(self.target)
        operations = {request.key: found for request in requests if (found := operation_of(request)) is not None}
        records = self._records(list(dict.fromkeys(operations.values())), table)
        for request in requests:
            operation = operations.get(request.key)
            if operation is not None:
                table.records[request.key] = self._with_passes(request, records[operation])
            elif not isinstance(request.workload, Conv2dWorkload):
                cost = self.simulator.moved(moved_bits(request.workload, request.precision))
                key = self._key(request.workload.key, str(request.precision), request.out_bits)
                table.records[request.key] = self._record(key, cost)
        return table

    def _records(self, operations: Sequence[Operation], table: SimulatedTable) -> dict[Operation, LatencyRecord]:
        known = {r.key: r for r in self.db.records(device=self.device, provenance=SIMULATED, failures=False)}
        keys = {o: self._key(o.workload.key, o.precision, o.activation_bits) for o in operations}
        found = {o: known[key] for o, key in keys.items() if key in known}
        missing = [o for o in operations if o not in found]
        table.cached, table.simulated = len(found), len(missing)
        for done, (operation, cost) in enumerate(zip(missing, self.simulator.simulate(missing), strict=True), 1):
            found[operation] = self._record(keys[operation], cost)
            self.db.put(found[operation], replace=True)
            if self.progress:
                self.progress(done, len(missing), f"simulating operators on {self.target}")
        return found

    def _with_passes(self, request: Request, record: LatencyRecord) -> LatencyRecord:
        workload = request.workload
        assert isinstance(workload, Conv2dWorkload) and record.median_us is not None
        outputs = workload.batch * workload.out_height * workload.out_width * workload.out_channels
        more_bits = BYTE if workload.residual else 0
        if request.out_bits == FLOAT_BITS:
            more_bits += FLOAT_BITS - request.precision.activation_bits
        if not more_bits:
            return record
        cost = SimulatedCost(record.median_us, record.energy_mj) + self.simulator.moved(outputs * more_bits)
        return dataclasses.replace(record, median_us=cost.latency_us, energy_mj=cost.energy_mj)

    def _key(self, workload: str, precision: str, out_bits: int) -> LatencyKey:
        return LatencyKey(workload, precision, out_bits, self.simulator.tool, "{}", self.target)

    def _record(self, key: LatencyKey, cost: SimulatedCost) -> LatencyRecord:
        s, now = self.simulator, self.clock().isoformat()
        return LatencyRecord(
            key, self.device, "", s.version, cost.latency_us, None, 1, now, SIMULATED, energy_mj=cost.energy_mj
        )


def operation_of(request: Request) -> Operation | None:
    """What a simulator is asked for a request; None for what it is not asked for."""
    workload, precision = request.workload, request.precision
    if not isinstance(workload, Conv2dWorkload) or precision.is_float:
        return None
    bare = dataclasses.replace(workload, residual=False, activation="none")
    return Operation(bare, precision.weight_bits, precision.activation_bits)
