"""What `devices` and `db` answer: the JSON objects of their `--json`, as types. Other commands: `answers`.

Keys and units are the command line's contract.
"""

from __future__ import annotations

from typing import TypedDict

from tvm_mpq.report.contract import Reading
from tvm_mpq.schema import FailureKind


class Device(TypedDict):
    """A device that answers. targets: rows it can run, its own first; health has no warnings: they stand beside it."""

    address: str
    architecture: str
    cpu_model: str
    core_type: str
    isa_features: list[str]
    cores: int
    emulated: bool
    targets: list[str]
    health: Reading
    warnings: list[str]
    round_trip_ms: float


class SilentDevice(TypedDict):
    """One that did not answer."""

    reason: str


class TrackerCounts(TypedDict):
    """Boards that a tracker has under a key."""

    key: str | None
    registered: int
    free: int


class DevicesReport(TypedDict):
    """The answer of `devices`. tracker: None where none was asked."""

    devices: list[Device]
    silent: list[SilentDevice]
    tracker: TrackerCounts | None


class RecordKey(TypedDict):
    """Fields of `LatencyKey`."""

    workload: str
    precision: str
    out_bits: int
    family: str
    knobs: str
    target: str


class Identity(TypedDict):
    """Fields of `DeviceIdentity`."""

    cpu_model: str
    core_type: str
    isa_features: list[str]
    cores: int
    threads: int


class Record(TypedDict):
    """Fields of `LatencyRecord`, and the id under which `db show` finds it."""

    id: str
    key: RecordKey
    device: str
    tvm_version: str
    kernel_version: str
    median_us: float | None
    iqr_us: float | None
    repeats: int
    measured_at: str
    provenance: str
    stated_error: float | None
    failure: str | None
    failure_kind: FailureKind | None
    energy_mj: float | None


class RecordInFull(Record):
    """device_identity: None where the device's text is no identity."""

    device_identity: Identity | None


class DatabaseReport(TypedDict, total=False):
    """The answers of the commands `db`: each has the keys of its job. Counts of records by what became of them."""

    database: str
    file: str
    records: list[Record]
    record: RecordInFull
    exported: int
    imported: dict[str, int]
    merged: dict[str, int]
    pruned: int
    problems: list[str]
