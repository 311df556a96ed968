from __future__ import annotations

import dataclasses
import json
import re

import pytest
from tvm.target import Target

from tvm_mpq.errors import InvalidValueError, UnknownTargetError
from tvm_mpq.targets import ROWS, TargetRow, features, from_tvm, local_row, names, resolve, to_tvm, to_tvm_attrs


def test_every_name_resolves() -> None:
    assert names()[0] == "local"
    rows = {resolve(name).name for name in names()}
    assert rows == {"local", *(row.name for row in ROWS)}


def test_names_of_the_manual() -> None:
    assert resolve("x86-avx512vnni").mcpu == "cascadelake"
    assert resolve("x86-avx2").mcpu == "haswell"
    assert resolve(" Cortex-A72 ").name == "cortex-a72"
    assert resolve("local") is local_row()


def test_a_row_resolves_to_itself() -> None:
    assert resolve(ROWS[3]) is ROWS[3]


def test_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(UnknownTargetError) as caught:
        resolve("cortexa72")
    text = str(caught.value)
    assert "'cortexa72' (did you mean 'cortex-a72'?); known targets: local, x86-avx2" in text
    assert all(name in text for name in names())
    assert "\n" not in text


def test_unknown_name_without_a_near_one() -> None:
    with pytest.raises(UnknownTargetError, match=r"unknown target 'z'; known targets"):
        resolve("z")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_attributes_survive_json_and_tvm(row: TargetRow) -> None:
    attrs = to_tvm_attrs(row, cores=3)
    assert json.loads(json.dumps(attrs)) == attrs
    target = Target(attrs)
    assert target.attrs["mcpu"] == row.mcpu
    assert int(target.attrs["num-cores"]) == 3
    assert to_tvm_attrs(row)["num-cores"] == row.cores
    assert from_tvm(to_tvm(row)) == row
    assert resolve(target) == dataclasses.replace(row, cores=3)


def test_the_float_abi_is_that_of_the_triple() -> None:
    """TVM would compile for soft floats, which the linker of the triple refuses; tests/boards links."""
    assert [row.name for row in ROWS if to_tvm_attrs(row).get("mfloat-abi") == "hard"] == ["cortex-a7"]


def test_features_are_the_rows() -> None:
    assert "avx512vnni" in features(resolve("cascadelake"))
    assert "avx512vnni" not in features(resolve("skylake-avx512"))
    assert "dotprod" not in features(resolve("cortex-a72"))


@pytest.mark.parametrize("cores", [0, -2])
def test_cores_must_be_positive(cores: int) -> None:
    with pytest.raises(InvalidValueError, match=rf"cores must be 1 or more \(got {cores}\)"):
        to_tvm_attrs(ROWS[0], cores)


def test_target_with_a_feature_taken_away() -> None:
    given = {"kind": "llvm", "mcpu": "znver4", "mtriple": "x86_64-linux-gnu", "mattr": ["-avx512vnni"], "num-cores": 2}
    row = from_tvm(Target(given))
    assert row.name == "llvm:znver4,x86_64-linux-gnu,-avx512vnni"
    assert set(resolve("znver4").isa_features) - set(row.isa_features) == {"avx512vnni"}
    assert row.l2_bytes == resolve("znver4").l2_bytes
    assert to_tvm_attrs(row) == given


def test_target_of_a_core_without_a_row() -> None:
    row = from_tvm(Target({"kind": "llvm", "mcpu": "cortex-a78", "mtriple": "aarch64-linux-gnu"}))
    assert {"neon", "dotprod"} <= features(row)
    assert row.mtriple == "aarch64-linux-gnu"


@pytest.mark.parametrize(
    ("attrs", "text"),
    [
        ({"kind": "llvm"}, "must name its mcpu"),
        ({"kind": "llvm", "mcpu": "znver99"}, "(got 'znver99')"),
        ({"kind": "c"}, "kind llvm (got c)"),
    ],
)
def test_target_that_says_too_little(attrs: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidValueError, match=re.escape(text)):
        resolve(Target(attrs))


def test_something_else_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"got int"):
        resolve(5)  # type: ignore[arg-type]
