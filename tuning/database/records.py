"""A `LatencyRecord` as a checked row and as a line of JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from typing import Any

from tvm_mpq.errors import FileFormatError, InvalidValueError
from tvm_mpq.schema import PROVENANCES, FailureKind, LatencyKey, LatencyRecord, json_types
from tvm_mpq.tuning.database.store import instant_us

KEY_COLUMNS = tuple(f.name for f in dataclasses.fields(LatencyKey))
COLUMNS = (*KEY_COLUMNS, *(f.name for f in dataclasses.fields(LatencyRecord) if f.name != "key"))

_OPTIONAL = {"median_us", "iqr_us", "stated_error", "failure", "failure_kind", "energy_mj"}
_LATER = {"failure_kind", "energy_mj"}
"""Fields that files of older versions lack."""

_NUMBERS = {"median_us", "iqr_us", "stated_error", "energy_mj"}
_INTEGERS = {"out_bits", "repeats"}


def check(record: LatencyRecord) -> None:
    """Raises InvalidValueError when a record contradicts itself or holds NaN or infinity."""
    where = f"{record.key.workload} at {record.key.precision}"
    if record.provenance not in PROVENANCES:
        known = ", ".join(PROVENANCES)
        raise InvalidValueError(f"provenance must be one of {known} (got {record.provenance!r} for {where})")
    if (record.failure is None) == (record.median_us is None):
        raise InvalidValueError(f"a record has either median_us or a failure (got both or neither for {where})")
    for name in sorted(_NUMBERS):
        value = getattr(record, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InvalidValueError(f"{name} must be finite and 0 or more (got {value} for {where})")
    if record.failure_kind is not None and record.failure is None:
        raise InvalidValueError(f"a failure_kind needs its failure in words (got {record.failure_kind} for {where})")
    if record.provenance == "predicted" and record.failure is None and record.stated_error is None:
        raise InvalidValueError(f"a prediction carries its stated_error (got none for {where})")
    instant_us(record.measured_at)


def to_row(record: LatencyRecord) -> tuple[Any, ...]:
    """Values in the order of COLUMNS, then the time to compare by. Raises InvalidValueError."""
    check(record)
    flat = {**vars(record.key), **vars(record)}
    return (*(flat[name] for name in COLUMNS), instant_us(record.measured_at))


def from_row(row: tuple[Any, ...]) -> LatencyRecord:
    """Inverse of `to_row`; further columns are ignored. Raises FileFormatError for what `to_row` never gives."""
    named = dict(zip(COLUMNS, row, strict=False))
    for name, value in named.items():
        if not _fits(name, value):
            raise FileFormatError(f"not a latency record: {name} is {reprlib.repr(value)}")
    key = LatencyKey(*(named.pop(name) for name in KEY_COLUMNS))
    kind = named.pop("failure_kind")
    try:
        return LatencyRecord(key, **named, failure_kind=None if kind is None else FailureKind(kind))
    except ValueError as e:
        raise FileFormatError(f"failure_kind must be one of {', '.join(FailureKind)} (got {kind!r})") from e


def to_json(record: LatencyRecord) -> str:
    """One line, flat, keys sorted."""
    flat = {**vars(record.key), **{k: v for k, v in vars(record).items() if k != "key"}}
    return json.dumps(flat, sort_keys=True, allow_nan=False)


def from_json(line: str) -> LatencyRecord:
    """Inverse of `to_json`. Raises FileFormatError."""
    try:
        data = json_types.parse(line)
    except ValueError as e:
        raise FileFormatError(f"not JSON ({e})") from e
    if not isinstance(data, dict) or set(data) | _LATER != set(COLUMNS):
        odd = sorted(set(COLUMNS) ^ set(data)) if isinstance(data, dict) else type(data).__name__
        raise FileFormatError(f"not a latency record: fields missing or unknown: {odd}")
    data = {**dict.fromkeys(_LATER), **data}
    record = from_row(tuple(data[name] for name in COLUMNS))
    try:
        check(record)
    except InvalidValueError as e:
        raise FileFormatError(str(e)) from e
    return record


def _fits(name: str, value: Any) -> bool:
    if value is None:
        return name in _OPTIONAL
    if name in _INTEGERS:
        return isinstance(value, int) and not isinstance(value, bool)
    if name in _NUMBERS:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, str)
