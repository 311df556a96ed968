"""Classes of a report that stand for a dataclass of another room have its fields, which `report` may not import."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest

from tvm_mpq import schema
from tvm_mpq.report import contract, inventory
from tvm_mpq.targets.health import Health
from tvm_mpq.tuning.devices.board_session import Disconnect


@pytest.mark.parametrize(
    ("in_report", "source", "more"),
    [
        (contract.Reading, Health, {"warnings"}),
        (contract.LostBoard, Disconnect, set()),
        (inventory.Record, schema.LatencyRecord, {"id"}),
        (inventory.RecordKey, schema.LatencyKey, set()),
        (inventory.Identity, schema.DeviceIdentity, set()),
    ],
)
def test_fields_are_those_of_the_dataclass(in_report: Any, source: Any, more: set[str]) -> None:
    """JSON has lists for tuples, and objects for dataclasses."""
    known = {schema.LatencyKey: inventory.RecordKey, tuple[str, ...]: list[str]}
    types = typing.get_type_hints(source)
    wanted = {field.name: known.get(types[field.name], types[field.name]) for field in dataclasses.fields(source)}
    found = typing.get_type_hints(in_report)
    assert {name: kind for name, kind in found.items() if name not in more} == wanted
    assert more <= found.keys()
