"""Tables of a machine that is not here: what is simulated, what is added to it, and what of it is kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tvm_mpq.errors import InvalidValueError, UnsupportedModelError
from tvm_mpq.kernels.registry import Request
from tvm_mpq.schema import (
    FP32,
    W4A8,
    W8A8,
    AddWorkload,
    AttentionWorkload,
    ConcatWorkload,
    Conv2dWorkload,
    ConvertWorkload,
    CopyWorkload,
    FloatWorkload,
    LatencyKey,
    LatencyRecord,
    MultiplyWorkload,
    NormWorkload,
    Pool2dWorkload,
    Precision,
    Workload,
)
from tvm_mpq.simulators.machines import names, simulator_named, with_energy
from tvm_mpq.simulators.movement import moved_bits
from tvm_mpq.simulators.simulator import Operation, SimulatedCost
from tvm_mpq.simulators.source import SimulatedLatencies
from tvm_mpq.tuning.database.latencies import LatencyDatabase

CONV = Conv2dWorkload(1, 4, 4, 8, 16, (1, 1))
OUTPUTS = 4 * 4 * 16


@dataclass
class Counting:
    """A machine of one microsecond a bit of each operand, which counts what it is asked."""

    tool: str = "counting"
    version: str = "1"
    machine: str = "small"
    digest: str = "d"
    gives_energy: bool = True
    asked: list[Operation] = field(default_factory=list)

    def simulate(self, operations: Sequence[Operation]) -> Iterator[SimulatedCost]:
        for operation in operations:
            self.asked.append(operation)
            yield SimulatedCost(10.0 * operation.weight_bits + operation.activation_bits, 0.5)

    def moved(self, bits: float) -> SimulatedCost:
        return SimulatedCost(bits / 1000, bits / 1e6)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[LatencyDatabase]:
    with LatencyDatabase(tmp_path / "db") as database:
        yield database


def request_of(workload: Workload, precision: Precision = W8A8, out_bits: int = 8) -> Request:
    return Request(workload, precision, out_bits, frozenset())


def test_operators_that_differ_in_what_no_simulator_sees_are_simulated_once(db: LatencyDatabase) -> None:
    machine = Counting()
    plain, floats = request_of(CONV), request_of(CONV, out_bits=32)
    joined = request_of(dataclasses.replace(CONV, residual=True, activation="relu"))
    four, unquantized = request_of(CONV, W4A8), request_of(CONV, FP32, 32)
    table = SimulatedLatencies(machine, db).table([plain, floats, joined, four, unquantized])
    assert machine.asked == [Operation(CONV, 8, 8), Operation(CONV, 4, 8)]
    assert [table.latency_us(r) for r in (plain, four)] == [88.0, 48.0]
    assert table.latency_us(floats) == 88.0 + 24 * OUTPUTS / 1000  # 32 instead of 8 bits a result
    assert table.latency_us(joined) == 88.0 + 8 * OUTPUTS / 1000  # another operand
    assert table.energy_mj(joined) == pytest.approx(0.5 + 8 * OUTPUTS / 1e6)
    assert math.isinf(table.latency_us(unquantized)) and table.energy_mj(unquantized) is None
    assert table.size_bytes(four) == 16 * 8 * 4 // 8 + 16 * 8
    assert table.entries == {"measured": 0, "predicted": 0, "cached": 0, "simulated": 2}
    assert {r.provenance for r in table.records.values()} == {"simulated"}


def test_what_was_simulated_is_kept_until_the_machine_changes(db: LatencyDatabase) -> None:
    first, again = Counting(), Counting()
    SimulatedLatencies(first, db).table([request_of(CONV)])
    table = SimulatedLatencies(again, db).table([request_of(CONV), request_of(CONV, W4A8)])
    assert again.asked == [Operation(CONV, 4, 8)]
    assert (table.entries["cached"], table.entries["simulated"]) == (1, 1)
    for change in ({"version": "2"}, {"digest": "e"}, {"machine": "large"}, {"tool": "other"}):
        other = Counting(**change)
        SimulatedLatencies(other, db).table([request_of(CONV)])
        assert other.asked == [Operation(CONV, 8, 8)], change


def test_measured_and_simulated_never_meet(db: LatencyDatabase) -> None:
    """A measurement under the very key of a simulated record, even of its device, is no answer to either."""
    source = SimulatedLatencies(Counting(), db)
    source.table([request_of(CONV)])
    (simulated,) = db.records()
    assert "counting 1|small|d" in simulated.device and simulated.tvm_version == ""
    key = LatencyKey(CONV.key, "w8a8", 8, "qu8__isa", "{}", "local")
    measured = LatencyRecord(key, "CPU", "0.27", "1", 1.0, 0.1, 5, "2099-01-01T00:00:00+00:00", "measured")
    impostor = dataclasses.replace(measured, key=simulated.key, device=simulated.device)
    db.put_all([measured, impostor])
    assert db.fastest(CONV.key, "w8a8", 8, "local", "CPU") == [measured]
    assert db.fastest(CONV.key, "w8a8", 8, simulated.key.target, "CPU") == []
    assert source.table([request_of(CONV)]).latency_us(request_of(CONV)) == 88.0
    assert (db.stats().simulated, db.stats().measured, db.stats().predicted) == (1, 2, 0)


@pytest.mark.parametrize(
    "workload, numbers",
    [
        (Pool2dWorkload("max", 1, 4, 4, 3, (2, 2), (2, 2), (0, 0, 0, 0), 2, 2), 3 * (16 + 4)),
        (AddWorkload((1, 2, 2, 3)), 3 * 12),
        (MultiplyWorkload((1, 2, 2, 3), broadcast=False), 3 * 12),
        (MultiplyWorkload((1, 2, 2, 3), broadcast=True), 2 * 12 + 3),
        (ConcatWorkload(4, (3, 5)), 2 * 32),
        (NormWorkload((4, 6), 1e-5), 2 * 24),
        (CopyWorkload((1, 4), (1, 3), (0, 0), (1, 2), (1, 2), (0, 1)), 2 + 3),
        (AttentionWorkload(1, 2, 3, 4, 5, 6, 1.0, ((1,),), (0,), (0,), (0,)), 2 * (3 * 5 + 4 * 5 + 4 * 6 + 3 * 6)),
    ],
)
def test_operators_without_weights_are_passes(workload: Workload, numbers: int, db: LatencyDatabase) -> None:
    assert moved_bits(workload, W8A8) == 8 * numbers
    assert moved_bits(workload, FP32) == 32 * numbers
    table = SimulatedLatencies(Counting(), db).table([request_of(workload)])
    assert table.latency_us(request_of(workload)) == 8 * numbers / 1000
    assert list(db.records()) == []  # worked out in no time


def test_boundaries_carry_what_they_read_and_what_they_write() -> None:
    assert moved_bits(ConvertWorkload((1, 2, 3), 32, 8), W8A8) == 6 * 40
    assert moved_bits(ConvertWorkload((1, 2, 3), 8, 8), W8A8) == 6 * 16


def test_what_nobody_prices_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"no simulator here prices float\(.*--latency-source measured"):
        moved_bits(FloatWorkload("f", "erf"), FP32)


def test_names() -> None:
    assert simulator_named("measured") is None
    for name in names()[1:]:
        if not name.startswith("mpic"):
            continue  # its tool may not be installed
        found = simulator_named(name)
        assert found is not None and f"{found.tool}:{found.machine}".rstrip(":") == name
    assert {"mpic", "mpic:8cores"} <= set(with_energy())
    with pytest.raises(InvalidValueError, match=r"must be one of measured, mpic, .*\(got 'mpic:9cores'\)"):
        simulator_named("mpic:9cores")
