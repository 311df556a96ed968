"""The table's claims, held against LLVM."""

from __future__ import annotations

from pathlib import Path

import pytest
from tvm.target import codegen

from mpq_testing.objects import object_architecture
from tvm_mpq.targets import ROWS, TargetRow, cpuinfo, to_tvm

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def known_features(row: TargetRow) -> frozenset[str]:
    assert row.mtriple is not None
    return frozenset(cpuinfo.FLAGS[cpuinfo.architecture(row.mtriple)])


@every_row
def test_llvm_knows_the_core(row: TargetRow) -> None:
    assert codegen.llvm_is_valid_cpu(row.mcpu, row.mtriple)


@every_row
def test_llvm_confirms_each_feature_and_the_row_forgets_none(row: TargetRow) -> None:
    llvm = frozenset(map(str, codegen.llvm_get_cpu_features(to_tvm(row))))
    assert frozenset(row.isa_features) == llvm & known_features(row)
    assert codegen.llvm_cpu_has_features(list(row.isa_features), to_tvm(row))


@every_row
def test_facts_are_plausible_and_sourced(row: TargetRow) -> None:
    assert row.source
    assert row.kind == "llvm"
    assert row.cores >= 1
    assert 8 * 1024 <= row.l1d_bytes < row.l2_bytes
    assert row.l3_bytes is None or row.l3_bytes > row.l1d_bytes
    assert all(text[0] in "+-" for text in row.mattr)


def test_names_and_aliases_are_unique_and_lower_case() -> None:
    names = [name for row in ROWS for name in (row.name, *row.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.lower() and name != "local" for name in names)


SOURCE = """
@T.prim_func(s_tir=True)
def twice(a: T.Buffer((64,), "float32"), b: T.Buffer((64,), "float32")):
    T.func_attr({"tirx.noalias": True, "global_symbol": "twice"})
    for i in T.vectorized(64):
        b[i] = a[i] + a[i]
"""


@every_row
def test_tvm_compiles_for_it(row: TargetRow, tmp_path: Path) -> None:
    import tvm

    module = tvm.IRModule({"twice": tvm.script.from_source(SOURCE)})
    tvm.compile(module, target=to_tvm(row)).mod.write_to_file(str(tmp_path / "twice.o"), "o")
    assert object_architecture(tmp_path / "twice.o") == cpuinfo.architecture(str(row.mtriple))
    if row.name.startswith("rv64"):  # soft-float objects would not link with anybody's C library
        elf = (tmp_path / "twice.o").read_bytes()
        float_abi = int.from_bytes(elf[48:52], "little") & 0x6  # e_flags
        assert float_abi == 0x4, "the double-float ABI"
