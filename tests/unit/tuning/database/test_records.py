"""Records in rows and lines of JSON: what fits is kept to the bit, and nothing else is taken for a record."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tvm_mpq.errors import FileFormatError, InvalidValueError
from tvm_mpq.schema import FailureKind, LatencyKey, LatencyRecord
from tvm_mpq.tuning.database.records import COLUMNS, KEY_COLUMNS, check, from_json, from_row, to_json, to_row

KEY = LatencyKey("w", "w8a8", 8, "fam__isa", "{}", "x86-avx2")
FULL = LatencyRecord(
    KEY, "dev", "0.27", "1", 12.5, 0.5, 7, "2025-01-01T00:00:00+00:00", "measured", stated_error=0.25, energy_mj=3.5
)
FAILURE = dataclasses.replace(
    FULL, median_us=None, iqr_us=None, energy_mj=None, failure="too noisy", failure_kind=FailureKind.NOISE
)
OPTIONAL = {"median_us", "iqr_us", "stated_error", "failure", "failure_kind", "energy_mj"}
INTEGERS = {"out_bits", "repeats"}
NUMBERS = {"median_us", "iqr_us", "stated_error", "energy_mj"}


@pytest.mark.parametrize("record", [FULL, FAILURE])
def test_rows_and_lines_come_back(record: LatencyRecord) -> None:
    row = to_row(record)
    assert len(row) == len(COLUMNS) + 1 and row[-1] == 1735689600 * 10**6
    assert dict(zip(KEY_COLUMNS, row, strict=False)) == vars(KEY)
    assert from_row(row) == record and from_row(row[:-1]) == record, "what stands behind the columns is not read"
    assert from_json(to_json(record)) == record
    assert list(json.loads(to_json(record))) == sorted(COLUMNS)


@pytest.mark.parametrize("name", COLUMNS)
def test_each_column_takes_its_own_type_alone(name: str) -> None:
    row = dict(zip(COLUMNS, to_row(FAILURE), strict=False))
    for value in (None, True, 3, 2.5, "text", b"bytes", [1]):
        number = not isinstance(value, bool) and isinstance(value, (int, float))
        fits = (
            name in OPTIONAL
            if value is None
            else number and isinstance(value, int)
            if name in INTEGERS
            else number
            if name in NUMBERS
            else isinstance(value, str)
        )
        changed = tuple({**row, name: value}.values())
        if fits and not (name == "failure_kind" and value == "text"):
            found = from_row(changed)
            assert {**vars(found.key), **vars(found)}[name] == value
        else:
            with pytest.raises(FileFormatError, match=rf"{name} is |failure_kind must be one of"):
                from_row(changed)


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_numbers_are_finite_and_not_below_zero(name: str) -> None:
    for good in (0.0, 0, 5e-324, 1e308):
        check(dataclasses.replace(FULL, **{name: good}))
    for bad in (-5e-324, -1, float("inf"), float("nan")):
        with pytest.raises(InvalidValueError, match=f"{name} must be finite and 0 or more"):
            check(dataclasses.replace(FULL, **{name: bad}))


def test_who_needs_a_stated_error() -> None:
    """A prediction; not where it failed, nor a measurement."""
    bare = dataclasses.replace(FULL, stated_error=None)
    for provenance in ("measured", "simulated"):
        check(dataclasses.replace(bare, provenance=provenance))
    check(dataclasses.replace(FULL, provenance="predicted"))
    check(dataclasses.replace(FULL, provenance="predicted", stated_error=0.0))
    check(dataclasses.replace(FAILURE, provenance="predicted", stated_error=None))
    with pytest.raises(InvalidValueError, match="carries its stated_error"):
        check(dataclasses.replace(bare, provenance="predicted"))


def test_a_failure_in_words_needs_no_kind_and_a_kind_needs_words() -> None:
    check(dataclasses.replace(FAILURE, failure_kind=None))
    with pytest.raises(InvalidValueError, match="needs its failure in words"):
        check(dataclasses.replace(FULL, failure_kind=FailureKind.NOISE))
    with pytest.raises(InvalidValueError, match="either median_us or a failure"):
        check(dataclasses.replace(FAILURE, median_us=1.0))


def test_lines_of_older_versions_lack_later_fields() -> None:
    data = json.loads(to_json(FULL))
    for later in ({"failure_kind"}, {"energy_mj"}, {"failure_kind", "energy_mj"}):
        found = from_json(json.dumps({k: v for k, v in data.items() if k not in later}))
        assert found == dataclasses.replace(FULL, **dict.fromkeys(later))


@pytest.mark.parametrize("name", sorted(set(COLUMNS) - {"failure_kind", "energy_mj"}))
def test_other_fields_may_not_be_missing(name: str) -> None:
    data = json.loads(to_json(FULL))
    del data[name]
    with pytest.raises(FileFormatError, match=f"missing or unknown: \\['{name}'\\]$"):
        from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", "not JSON"),
        ("[]", "missing or unknown: list"),
        ("3", "missing or unknown: int"),
        (to_json(FULL)[:-1] + ', "colour": 1}', r"missing or unknown: \['colour'\]$"),
        (to_json(FULL).replace('"measured"', '"guessed"'), "provenance must be one of"),
        (to_json(FAILURE).replace('"noise"', '"boredom"'), "failure_kind must be one of compile, .*got 'boredom'"),
    ],
)
def test_what_is_no_record_is_refused(line: str, text: str) -> None:
    with pytest.raises(FileFormatError, match=text):
        from_json(line)
