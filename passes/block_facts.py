"""What the float scheduler needs to know about one block of a PrimFunc: its axes, and who walks memory in order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx

_COSTLY = ("exp", "exp2", "exp10", "erf", "tanh", "sigmoid", "log", "pow", "sqrt", "rsqrt", "sin", "cos")
_EXPENSIVE = frozenset(f"tirx.{name}" for name in _COSTLY)


@dataclass(frozen=True)
class BlockFacts:
    """One leaf block whose loops bind its axes one to one, outermost first.

    kinds: `S` (spatial) or `R` (reduction) per axis. write_last, read_lasts: the axes in the last index of what it
    writes and of each thing it reads. read_axes: all axes in each read. plain: every read has the indices of the write.
    expensive: calls exp and the like. guarded: has an if_then_else.
    """

    name: str
    kinds: str
    extents: tuple[int, ...]
    write_last: frozenset[int]
    read_lasts: tuple[frozenset[int], ...]
    read_axes: tuple[frozenset[int], ...]
    plain: bool
    expensive: bool
    guarded: bool

    @property
    def injective(self) -> bool:
        return "R" not in self.kinds

    @property
    def operations(self) -> int:
        return math.prod(self.extents)

    @property
    def leading(self) -> int:
        """Spatial axes before the first reduction axis."""
        return len(self.kinds) - len(self.kinds.lstrip("S"))

    @property
    def reduces_contiguously(self) -> bool:
        """The innermost reduction axis walks along memory in something it reads, and the written axis does not."""
        if self.injective or self.kinds[-1] != "R":
            return False
        last = len(self.kinds) - 1
        return any(last in lasts for lasts in self.read_lasts) and not self.spreads_contiguously

    @property
    def spreads_contiguously(self) -> bool:
        """Some read walks along memory with the axis that the write walks along."""
        return any(self.write_last & lasts for lasts in self.read_lasts)


def blocks_of(sch: s_tir.Schedule) -> list[BlockFacts] | None:
    """All blocks under the root, in order; None when some part of the function is not made of plain leaf blocks."""
    result = []
    for rv in sch.get_child_blocks(sch.get_sblock("root")):
        block = _facts(sch, rv)
        if block is None:
            return None
        result.append(block)
    return None if len({b.name for b in result}) < len(result) else result


def block_named(sch: s_tir.Schedule, name: str) -> BlockFacts | None:
    return _facts(sch, sch.get_sblock(name))


def _facts(sch: s_tir.Schedule, rv: Any) -> BlockFacts | None:
    block, loops = sch.get(rv), [sch.get(loop) for loop in sch.get_loops(rv)]
    if len(loops) != len(block.iter_vars) or len(block.writes) != 1 or sch.get_child_blocks(rv):
        return None
    if not all(isinstance(loop.extent, tirx.IntImm) for loop in loops):
        return None
    kinds = ""
    for axis in block.iter_vars:
        kind = {tirx.IterVar.DataPar: "S", tirx.IterVar.CommReduce: "R"}.get(axis.iter_type)
        if kind is None:
            return None
        kinds += kind
    position = {axis.var: n for n, axis in enumerate(block.iter_vars)}
    write = block.writes[0].region
    own = {r.source for r in block.writes}
    reads = [r for r in block.reads if r.source not in own]
    write_indices = [r.min for r in write]
    called = _called(block.body)
    plain = all(tvm_ffi.structural_equal([x.min for x in r.region], write_indices) for r in reads)
    return BlockFacts(
        name=block.name_hint,
        kinds=kinds,
        extents=tuple(int(loop.extent) for loop in loops),
        write_last=_axes(write[-1:], position),
        read_lasts=tuple(_axes(r.region[-1:], position) for r in reads),
        read_axes=tuple(_axes(r.region, position) for r in reads),
        plain=plain,
        expensive=bool(called & _EXPENSIVE),
        guarded="tirx.if_then_else" in called,
    )


def _axes(region: Any, position: dict[Any, int]) -> frozenset[int]:
    found: set[int] = set()

    def note(variable: Any) -> None:
        if variable in position:
            found.add(position[variable])

    for part in region:
        tvm_ffi.structural_walk(part.min, (tirx.Var, note))
    return frozenset(found)


def _called(body: Any) -> set[str]:
    names: set[str] = set()

    def note(call: Any) -> None:
        names.add(getattr(call.op, "name", ""))

    tvm_ffi.structural_walk(body, (ir.Call, note))
    return names
