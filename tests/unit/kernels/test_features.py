"""What kernels take the vectors of a CPU to be, row by row of the targets."""

from __future__ import annotations

import pytest

from tvm_mpq.kernels.features import native_lanes, vector_registers
from tvm_mpq.targets import features
from tvm_mpq.targets.cpuinfo import architecture
from tvm_mpq.targets.rows import ROWS, TargetRow


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_registers_are_those_of_the_architecture(row: TargetRow) -> None:
    """The manuals' numbers: 16 before AVX-512 and on 32-bit ARM, where pairs of registers make 128 bits, else 32."""
    kind = architecture(row.mtriple or "")
    few = kind == "arm" or (kind == "x86_64" and "avx512f" not in row.isa_features)
    assert vector_registers(features(row)) == (16 if few else 32)


def test_lanes_are_those_of_the_widest_vectors() -> None:
    assert [native_lanes(frozenset(f)) for f in ({"avx2", "avx512f"}, {"avx", "avx2"}, {"neon"}, set())] == [
        16,
        8,
        4,
        4,
    ]
