"""The loop nests that ScheduleFloat builds, one method a pattern. See `schedule_float` for what it promises."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.tirx import PrimFunc

from tvm_mpq.kernels.features import native_lanes, vector_registers
from tvm_mpq.passes.block_facts import BlockFacts, block_named, blocks_of

_GUARD_CHUNK = 16
_TILE_ROWS = (6, 5, 4)
_PIECES = 8
"""Parts that a flat loop is cut into at least, where its outer axes allow."""
_SMALL_WINDOW = 32
"""LLVM unrolls reductions up to about this long and keeps their sums in registers."""


class FloatScheduler:
    """Schedules one function. `run()` never raises for a function TVM can hold; refused steps are undone."""

    def __init__(self, func: PrimFunc, features: frozenset[str], parallel_elements: int) -> None:
        self._func = func
        self._lanes = native_lanes(features)
        self._rows = _TILE_ROWS if vector_registers(features) == 32 else _TILE_ROWS[1:]
        self._parallel_elements = parallel_elements

    def run(self) -> PrimFunc:
        """The scheduled function, with the attributes of the given one."""
        symbol = self._func.attrs.get("global_symbol") if self._func.attrs else None
        try:
            self._sch = s_tir.Schedule(IRModule({"main": self._func.with_attr("global_symbol", "main")}))
            blocks = blocks_of(self._sch)
        except (RuntimeError, ValueError, TypeError):
            return self._func
        if not blocks:
            return self._func
        self._inline(blocks)
        blocks = blocks_of(self._sch) or []
        if not (self._is_row_pattern(blocks) and self._attempt(lambda: self._row_pattern(blocks))):
            self._done: set[str] = set()
            for block in blocks:
                self._one(block)
        result = self._sch.mod["main"]
        return result.with_attr("global_symbol", symbol) if symbol else result.without_attr("global_symbol")

    def _attempt(self, step: Callable[[], None]) -> bool:
        """Run `step`; when TVM refuses any part of it, go back to the schedule from before."""
        before = self._sch.copy()
        try:
            step()
        except (RuntimeError, ValueError):  # ScheduleError and TVM's internal checks
            self._sch = before
            return False
        return True

    def _inline(self, blocks: Sequence[BlockFacts]) -> None:
        """Inline a producer unless that would repeat costly work or break up how its consumer walks memory."""
        for block in blocks:
            rv = self._sch.get_sblock(block.name)
            consumers = [block_named(self._sch, self._sch.get(c).name_hint) for c in self._sch.get_consumers(rv)]
            if not block.injective or not consumers:
                continue
            into_injective = all(c is not None and c.injective for c in consumers)
            repeated = block.expensive and len(consumers) > 1
            if repeated or not (into_injective or (block.plain and not block.expensive)):
                continue
            self._attempt(lambda name=block.name: self._sch.compute_inline(self._sch.get_sblock(name)))  # type: ignore[misc]

    # --- softmax, layer norm: several blocks over the same rows -------------------------------------------------

    def _is_row_pattern(self, blocks: Sequence[BlockFacts]) -> bool:
        reductions = [b for b in blocks if not b.injective]
        return (
            len(blocks) > 1
            and bool(reductions)
            and blocks[-1].injective
            and all(b.reduces_contiguously for b in reductions)
            # compute_at forgets the predicate of a split that does not divide (seen in 0.27): such rows stay apart
            and all(b.extents[-1] % (self._lanes_for(b.extents[-1]) or 1) == 0 for b in reductions)
            and self._shared_axes(blocks) > 0
        )

    @staticmethod
    def _shared_axes(blocks: Sequence[BlockFacts]) -> int:
        count = min(b.leading for b in blocks)
        while count and len({b.extents[:count] for b in blocks}) > 1:
            count -= 1
        return count

    def _row_pattern(self, blocks: Sequence[BlockFacts]) -> None:
        """One pass over the rows; every step of a row finds its data in the first-level cache."""
        sch, shared = self._sch, self._shared_axes(blocks)
        order: list[str] = []
        partial: list[str] = []
        for block in blocks:
            if not block.injective and self._lanes_for(block.extents[-1]):
                partial.append(self._split_sum(block))
                order.append(partial[-1])
            order.append(block.name)
        row = sch.fuse(*sch.get_loops(sch.get_sblock(order[-1]))[:shared])
        if sum(b.operations for b in blocks) >= self._parallel_elements:
            sch.parallel(row)
        for name in reversed(order[:-1]):
            sch.compute_at(sch.get_sblock(name), row, preserve_unit_loops=True)
        for name in partial:
            rv = sch.get_sblock(name)
            axes = [axis.iter_type for axis in sch.get(rv).iter_vars]
            loops = sch.get_loops(rv)[-len(axes) :]
            chunks = [loop for loop, kind in zip(loops, axes, strict=True) if kind == tirx.IterVar.CommReduce]
            others = [loop for loop, kind in zip(loops, axes, strict=True) if kind != tirx.IterVar.CommReduce]
            sch.reorder(*chunks, *others)
            sch.decompose_reduction(rv, chunks[0])

    def _lanes_for(self, extent: int) -> int:
        """Partial results of a reduction along memory; 0 when it is too short to be worth it."""
        if extent < 32:
            return 0
        return 16 if extent % 16 == 0 and extent >= 512 and self._lanes == 16 else 8

    def _split_sum(self, block: BlockFacts) -> str:
        """Turn a reduction along memory into one of several partial results and a short one over them."""
        sch = self._sch
        loop = sch.get_loops(sch.get_sblock(block.name))[-1]
        _, lane = sch.split(loop, [None, self._lanes_for(block.extents[-1])])
        rv = sch.rfactor(lane, block.kinds.count("S"))
        return str(sch.get(rv).name_hint)

    # --- blocks on their own ------------------------------------------------------------------------------------

    def _one(self, block: BlockFacts) -> None:
        if block.injective:
            self._injective(block)
            return
        done = (
            (self._is_matmul(block) and self._attempt(lambda: self._matmul(block)))
            or (block.reduces_contiguously and self._attempt(lambda: self._row_reduction(block)))
            or (block.spreads_contiguously and self._attempt(lambda: self._column_reduction(block)))
        )
        if not done:
            self._attempt(
                lambda: self._parallel_outer(self._sch.get_sblock(block.name), block.leading, block.operations)
            )

    def _parallel_outer(self, rv: Any, count: int, operations: int) -> None:
        """Fuse the `count` outermost loops and spread them over threads, when there is enough to do."""
        sch = self._sch
        loops = sch.get_loops(rv)[:count]
        if loops and operations >= self._parallel_elements:
            sch.parallel(sch.fuse(*loops) if len(loops) > 1 else loops[0])

    def _injective(self, block: BlockFacts) -> None:
        if block.plain and self._attempt(lambda: self._flat(block)):
            return
        if block.guarded and block.extents[-1] % _GUARD_CHUNK == 0:
            self._attempt(lambda: self._chunked(block))
        rv = self._sch.get_sblock(block.name)
        self._attempt(lambda: self._parallel_outer(rv, len(block.extents) - 1, block.operations))

    def _chunked(self, block: BlockFacts) -> None:
        """Concatenation, padding: within a chunk the guard is mostly constant, and LLVM takes it out of the loop."""
        self._sch.split(self._sch.get_loops(self._sch.get_sblock(block.name))[-1], [None, _GUARD_CHUNK])

    def _flat(self, block: BlockFacts) -> None:
        """All operands are read in the order of writing: as few and as long loops as possible.

        Where to fuse is chosen so that indices simplify: a split of one fused loop would leave divisions in them.
        """
        sch = self._sch
        loops = sch.get_loops(sch.get_sblock(block.name))
        if block.operations < self._parallel_elements:
            sch.fuse(*loops)
            return
        outer, count = 1, 0
        while count < len(loops) - 1 and outer < _PIECES:
            outer *= block.extents[count]
            count += 1
        sch.fuse(*loops[count:])
        if count:
            sch.parallel(sch.fuse(*loops[:count]))

    def _row_reduction(self, block: BlockFacts) -> None:
        """Sums along memory: partial sums in vector lanes."""
        sch = self._sch
        if not self._lanes_for(block.extents[-1]):
            self._parallel_outer(self._sch.get_sblock(block.name), block.leading, block.operations)
            return
        name = self._split_sum(block)
        rv = sch.get_sblock(name)
        chunk = sch.get_loops(rv)[block.leading]
        self._parallel_outer(rv, block.leading, block.operations)  # before the next step: TVM refuses it after
        sch.decompose_reduction(rv, chunk)

    def _column_reduction(self, block: BlockFacts) -> None:
        """Pooling, means over a map: neighbouring columns together, the window inside or outside by its length."""
        sch = self._sch
        rv = sch.get_sblock(block.name)
        loops = sch.get_loops(rv)
        column = next(iter(block.write_last))
        spatial = [loops[n] for n, kind in enumerate(block.kinds) if kind == "S" and n != column]
        reduction = [loops[n] for n, kind in enumerate(block.kinds) if kind == "R"]
        window = math.prod(extent for extent, kind in zip(block.extents, block.kinds, strict=True) if kind == "R")
        if window <= _SMALL_WINDOW:
            sch.reorder(*spatial, loops[column], *reduction)
            self._parallel_outer(rv, len(spatial), block.operations)
            return
        outer, inner = sch.split(loops[column], [None, min(4 * self._lanes, block.extents[column])])
        sch.reorder(*spatial, outer, *reduction, inner)
        self._parallel_outer(rv, len(spatial) + 1, block.operations)
        sch.decompose_reduction(rv, reduction[0])

    # --- matmul between activations -----------------------------------------------------------------------------

    @staticmethod
    def _is_matmul(block: BlockFacts) -> bool:
        """Last axes i, j, k; one operand knows i, the other j; enough rows for a register tile."""
        if len(block.read_axes) != 2 or not block.kinds.endswith("SSR") or "R" in block.kinds[:-1]:
            return False
        k = len(block.kinds) - 1
        i, j = k - 2, k - 1
        left, right = block.read_axes
        owns = i in left and j not in left and j in right and i not in right and k in left and k in right
        return owns and block.write_last == {j} and block.extents[i] >= 4 and block.extents[j] >= 4

    def _matmul(self, block: BlockFacts) -> None:
        sch = self._sch
        k = len(block.kinds) - 1
        i, j = k - 2, k - 1
        rows = next((r for r in self._rows if block.extents[i] % r == 0), self._rows[0])
        lanes = self._lanes if block.extents[j] >= self._lanes else 4
        vectors = 2 if block.extents[j] % (2 * lanes) == 0 or block.extents[j] > 4 * lanes else 1
        cols = lanes * vectors
        rv = sch.get_sblock(block.name)
        helpers: list[str] = []
        if block.read_lasts[1] == {k}:  # the right operand is stored transposed
            copy = sch.cache_read(rv, 1, "global")
            helpers.append(str(sch.get(copy).name_hint))
            sch.transform_layout(rv, ("read", 1), lambda *index: (*index[:-2], index[-1], index[-2]))
        if block.extents[i] % rows or block.extents[j] % cols:
            names = {b.name for b in blocks_of(sch) or []}
            sch.pad_einsum(rv, [1] * i + [rows, cols, 1])
            helpers += [b.name for b in blocks_of(sch) or [] if b.name not in names]
        result = sch.cache_write(rv, 0, "global")
        loops = sch.get_loops(rv)
        row_outer, row = sch.split(loops[i], [None, rows])
        column_outer, vector, lane = sch.split(loops[j], [None, vectors, lanes])
        sch.reorder(*loops[:i], column_outer, row_outer, loops[k], row, vector, lane)
        sch.reverse_compute_at(result, row_outer)
        sch.vectorize(lane)
        sch.unroll(vector)
        sch.unroll(row)
        out_row, out_column = sch.get_loops(result)[-2:]
        out_vector, out_lane = sch.split(out_column, [None, lanes])
        sch.vectorize(out_lane)
        sch.unroll(out_vector)
        sch.unroll(out_row)
        self._parallel_outer(rv, i + 1, block.operations)
        init = sch.decompose_reduction(rv, loops[k])
        *_, init_row, init_vector, init_lane = sch.get_loops(init)
        sch.vectorize(init_lane)
        sch.unroll(init_vector)
        sch.unroll(init_row)
        for name in helpers:
            helper = block_named(sch, name)
            if helper is not None and helper.injective:
                self._injective(helper)
