"""Bytes through a 256 entry table: activations and changes of range or bits."""

from __future__ import annotations

from tvm_mpq.kernels.carriers.common import Carrier, dividing_lanes, vec
from tvm_mpq.kernels.tir import intrin, ramp

VBMI = frozenset({"avx512f", "avx512bw", "avx512vbmi"})
VBMI_LANES = 64

_PERMUTE_2 = "llvm.x86.avx512.vpermi2var.qi.512"  # 64 of the 128 bytes of two registers
_SCALAR_UNROLL = 16


def lookup_all(code: Carrier, total: int, vbmi: bool) -> None:
    """out[i] = table[x[i]] for `total` bytes of flat buffers."""
    if not vbmi or total < VBMI_LANES:
        lookup_scalars(code, total, "x")
        return
    load_table(code)
    with code.flat(total, VBMI_LANES, ease=4) as lanes:
        code.line(f"{vec('out', 'i', lanes)} = {lookup(vec('x', 'i', lanes))}")


def lookup_scalars(code: Carrier, total: int, source: str) -> None:
    """out[i] = table[source[i]], byte by byte; every byte once, so that `source` may be `out` itself."""
    lanes = dividing_lanes(total, _SCALAR_UNROLL)
    with code.rows("t", total // lanes, total), code.block(f"for j in T.unroll({lanes}):"):
        code.line(f'out[t * {lanes} + j] = table[T.Cast("int32", {source}[t * {lanes} + j])]')


def load_table(code: Carrier) -> None:
    """Keep the table in four registers, for `lookup`."""
    for part in range(4):
        code.let(f"table_{part}", f"table[{ramp(VBMI_LANES * part, VBMI_LANES)}]")


def lookup(index: str) -> str:
    """table[index] of a uint8x64, which the text names twice or more: let it be cheap."""
    low, high = (
        intrin("uint8x64", _PERMUTE_2, first, index, second)
        for first, second in (("table_0", "table_1"), ("table_2", "table_3"))
    )
    return f"T.Select({index} < T.Broadcast(T.uint8(128), {VBMI_LANES}), {low}, {high})"
