from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.pipeline.database import MOST_NAMED, export_records, import_records, list_records, record_id, show_record
from tvm_mpq.schema import DeviceIdentity, LatencyKey, LatencyRecord
from tvm_mpq.tuning.database.latencies import LatencyDatabase

DEVICE = DeviceIdentity("AMD | EPYC", "znver4", ("avx2", "avx512vnni"), 2, 1)
KEY = LatencyKey("conv2d(batch=1)", "w8a8", 8, "family", '{"rows": 2}', "local")
AT = "2025-01-01T00:00:00+00:00"
RECORD = LatencyRecord(KEY, DEVICE.key, "0.27", "c0de", 1234.5678, 0.25, 9, AT, "measured")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A measurement, its prediction, another precision, and another workload on a device of another kind of name."""
    with LatencyDatabase(tmp_path / "a.sqlite") as database:
        database.put(RECORD)
        database.put(dataclasses.replace(RECORD, provenance="predicted", stated_error=0.1))
        database.put(dataclasses.replace(RECORD, key=dataclasses.replace(KEY, precision="w4a8")))
        database.put(dataclasses.replace(RECORD, key=dataclasses.replace(KEY, workload="add()"), device="a phone"))
    return tmp_path / "a.sqlite"


def test_every_record_is_found_by_its_id(path: Path) -> None:
    listed = list_records(path)["records"]
    assert len({r["id"] for r in listed}) == len(listed) == 4
    for record in listed:
        shown = show_record(path, record["id"])["record"]
        assert {name: shown[name] for name in record} == record


def test_all_that_is_known_is_shown(path: Path) -> None:
    shown = show_record(path, record_id(RECORD))["record"]
    assert shown == {
        **dataclasses.asdict(RECORD), "id": record_id(RECORD), "device_identity": dataclasses.asdict(DEVICE)
    }  # fmt: skip
    assert show_record(path, "add")["record"]["device_identity"] is None


@pytest.mark.parametrize("device", [DEVICE, DeviceIdentity("", "generic", (), 1, 8)])
def test_identities_are_read_back(device: DeviceIdentity) -> None:
    assert DeviceIdentity.parse(device.key) == device


def test_workload_and_precision(path: Path) -> None:
    assert show_record(path, "conv2d", "w4a8")["record"]["key"]["precision"] == "w4a8"
    with pytest.raises(InvalidValueError, match=r"^2 records match 'conv2d' at precision w8a8: ") as caught:
        show_record(path, "conv2d", "w8a8")
    assert f"{record_id(RECORD)} (w8a8, family)" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InvalidValueError, match=r"no record has the id or workload 'pool'; tvm-mpq db list"):
        show_record(path, "pool")


def test_not_all_of_many_are_named(path: Path) -> None:
    with LatencyDatabase(path) as database:
        for i in range(2 * MOST_NAMED):
            database.put(dataclasses.replace(RECORD, key=dataclasses.replace(KEY, family=f"family{i}")))
    with pytest.raises(InvalidValueError, match=rf"and {2 * MOST_NAMED + 3 - MOST_NAMED} more$"):
        show_record(path, "conv2d")


def test_ids_travel(path: Path, tmp_path: Path) -> None:
    export_records(path, tmp_path / "all.jsonl")
    import_records(tmp_path / "b.sqlite", tmp_path / "all.jsonl")
    assert list_records(path)["records"] == list_records(tmp_path / "b.sqlite")["records"]
