"""The end of an integer convolution: int32 accumulators to requantized bytes or floats, in registers.

y = float32(acc) * m, with a residual fma(float32(acc), m, float32(r - z_r) * m_r). Floats: y is clamped. Bytes: y is
clamped to [lo - z, hi - z] as float, rounded half to even, narrowed and shifted by z modulo 256. (Packing four
accumulators into 64 bytes with saturating instructions was measured: no faster, the shuffles cost what it saves.)
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.conv.geometry import BLOCK, blocks
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.tir import Code, intrin, ramp
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.schema import Conv2dWorkload, padded_channels

Params = list[tuple[str, tuple[int, ...], str]]

_ROUND_512 = "llvm.x86.avx512.mask.cvtps2dq.512"
_ROUND_256 = "llvm.x86.avx.cvt.ps2dq.256"
_PERMUTE_2 = "llvm.x86.avx512.vpermi2var.qi.512"
_MAGIC = "12582912.0"  # 1.5 * 2^23: adding it rounds |y| < 2^22 half to even into the low bits of the float


@dataclass(frozen=True)
class Cell:
    """One accumulator at the end of a tile: names and index expressions of the generated code."""

    acc: str
    multiplier: str  # vector expression
    position: str  # index of the output position, n * OH * OW + oh * OW + ow
    channel: str  # first channel of the vector
    maybe_last: bool = True  # whether the vector can reach past the last channel


@dataclass(frozen=True)
class Epilogue:
    """Writes the code that ends a tile; `lanes` int32 lanes make one accumulator."""

    request: Request
    lanes: int

    @property
    def workload(self) -> Conv2dWorkload:
        assert isinstance(self.request.workload, Conv2dWorkload)
        return self.request.workload

    @property
    def floats(self) -> bool:
        return self.request.out_bits == 32

    @property
    def has_table(self) -> bool:
        return not is_clamp(self.workload.activation)

    @property
    def stored_channels(self) -> int:
        """Elements of one output position."""
        return self.workload.out_channels if self.floats else padded_channels(self.workload.out_channels)

    @property
    def _wide_table(self) -> bool:
        return self.lanes == 16 and "avx512vbmi" in self.request.features

    def header(self, code: Code) -> None:
        """Alias the flat output and residual and bind the ranges; once, at the top of the function."""
        w, n = self.workload, self.lanes
        positions = w.batch * w.out_height * w.out_width
        dtype = "float32" if self.floats else "uint8"
        code.line(f'O = T.decl_buffer(({positions * self.stored_channels},), "{dtype}", data=out.data)')
        if self.floats:
            if w.activation != "none":
                code.let("v_lo", f"T.Broadcast(F[1], {n})")
                code.let("v_hi", f"T.Broadcast(F[2], {n})")
        else:
            code.let("v_lo", f'T.Broadcast(T.Cast("float32", Q[2] - Q[1]), {n})')
            code.let("v_hi", f'T.Broadcast(T.Cast("float32", Q[3] - Q[1]), {n})')
            code.let("v_z", f'T.Broadcast(T.Cast("uint8", Q[1]), {n})')
        if w.residual:
            cells = padded_channels(w.out_channels)
            code.line(f'R = T.decl_buffer(({positions * cells},), "uint8", data=r.data)')
            code.let("v_zr", f"T.Broadcast(Q[4], {n})")
            code.let("v_mr", f"T.Broadcast(F[0], {n})")
        if self.has_table and self._wide_table:
            for i in range(4):
                code.let(f"v_t{i}", f"table[{ramp(64 * i, 64)}]")

    def locals(self, code: Code) -> None:
        """Declare the small buffers that each thread needs for itself."""
        n = self.lanes
        if self.stored_channels % n:
            code.line(f'tail = T.alloc_buffer(({n},), "{"float32" if self.floats else "uint8"}")')
        if self.workload.residual and padded_channels(self.workload.out_channels) % n:
            code.line(f'r_tail = T.alloc_buffer(({n},), "uint8")')
            code.line(f"r_tail[{ramp(0, n)}] = T.Broadcast(T.uint8(0), {n})")
        if self.has_table and not self._wide_table:
            code.line(f'pre = T.alloc_buffer(({n},), "uint8")')

    def finish(self, code: Code, cells: list[Cell]) -> None:
        """Requantize and store all accumulators of a tile."""
        if not self.has_table:
            for i, cell in enumerate(cells):
                self._store(code, self._clamped(code, f"y{i}", cell), cell)
            return
        group = 4 if self._wide_table else 1
        for start in range(0, len(cells), group):
            part = cells[start : start + group]
            values = [self._clamped(code, f"y{start + i}", cell) for i, cell in enumerate(part)]
            look_up = self._look_up_wide if self._wide_table else self._look_up
            for cell, found in zip(part, look_up(code, values, f"i{start}"), strict=True):
                self._store(code, found, cell)

    def _scaled(self, code: Code, cell: Cell) -> str:
        """y of one accumulator."""
        n = self.lanes
        y = f'T.Cast("float32x{n}", {cell.acc})'
        if not self.workload.residual:
            return f"{y} * {cell.multiplier}"
        r = f'T.Cast("float32x{n}", T.Cast("int32x{n}", {self._residual(code, cell)}) - v_zr)'
        return intrin(f"float32x{n}", "llvm.fma", y, cell.multiplier, f"{r} * v_mr")

    def _clamped(self, code: Code, name: str, cell: Cell) -> str:
        """y of one accumulator, clamped; bytes when the output is."""
        y = self._scaled(code, cell)
        if not self.floats or self.workload.activation != "none":
            y = f"T.min(T.max({y}, v_lo), v_hi)"
        if self.floats:
            return code.let(name, y)
        return code.let(name, f'T.Cast("uint8x{self.lanes}", {self._rounded(y)}) + v_z')

    def _rounded(self, value: str) -> str:
        """An int32 vector whose low bytes are those of rint(value), |value| <= 255."""
        n, features = self.lanes, self.request.features
        if n == 16 and "avx512f" in features:
            return intrin("int32x16", _ROUND_512, value, "T.Broadcast(0, 16)", "T.int16(-1)", "T.int32(4)")
        if n == 8 and "avx2" in features:
            return intrin("int32x8", _ROUND_256, value)
        return f'T.reinterpret("int32x{n}", {value} + T.Broadcast(T.float32({_MAGIC}), {n}))'

    def _residual(self, code: Code, cell: Cell) -> str:
        stored = padded_channels(self.workload.out_channels)
        offset = f"({cell.position}) * {stored} + {cell.channel}"
        if stored % self.lanes == 0:
            return f"R[{ramp(offset, self.lanes)}]"
        code.line(f"r_tail[{ramp(0, stored)}] = R[{ramp(offset, stored)}]")
        return f"r_tail[{ramp(0, self.lanes)}]"

    def _look_up(self, code: Code, values: list[str], index: str) -> list[str]:
        """One vector through the table, byte by byte."""
        code.line(f"pre[{ramp(0, self.lanes)}] = {values[0]}")
        with code.block(f"for {index} in range({self.lanes}):"):
            code.line(f'pre[{index}] = table[T.Cast("int32", pre[{index}])]')
        return [f"pre[{ramp(0, self.lanes)}]"]

    def _look_up_wide(self, code: Code, values: list[str], index: str) -> list[str]:
        """Up to four vectors through the table: two permutes of 128 entries and a choice by the top bit."""
        wide = [values[min(i, len(values) - 1)] for i in range(4)]
        v = code.let(f"{index}_pre", f"T.Shuffle([{', '.join(wide)}], {list(range(64))})")
        low = intrin("uint8x64", _PERMUTE_2, "v_t0", v, "v_t1")
        high = intrin("uint8x64", _PERMUTE_2, "v_t2", v, "v_t3")
        found = code.let(f"{index}_post", f"T.Select({v} < T.Broadcast(T.uint8(128), 64), {low}, {high})")
        return [f"T.Shuffle([{found}], {list(range(16 * i, 16 * i + 16))})" for i in range(len(values))]

    def _store(self, code: Code, value: str, cell: Cell) -> None:
        """Write one vector of outputs, or the part of it that exists."""
        n, total = self.lanes, self.stored_channels
        offset = f"({cell.position}) * {total} + {cell.channel}"
        tail = total % n
        if not (tail and cell.maybe_last):
            code.line(f"O[{ramp(offset, n)}] = {value}")
        elif total > n:
            with code.block(f"if {cell.channel} + {n} <= {total}:"):
                code.line(f"O[{ramp(offset, n)}] = {value}")
            with code.block("else:"), code.block(f"if {cell.channel} < {total}:"):
                self._store_tail(code, value, offset, tail)
        else:
            self._store_tail(code, value, offset, tail)

    def _store_tail(self, code: Code, value: str, offset: str, tail: int) -> None:
        code.line(f"tail[{ramp(0, self.lanes)}] = {value}")
        done = 0
        for size in (8, 4, 2, 1):
            if tail & size:
                code.line(f"O[{ramp(f'{offset} + {done}', size)}] = tail[{ramp(done, size)}]")
                done += size


def activation_params(request: Request) -> Params:
    """Parameters x, and r with a residual."""
    w = request.workload
    assert isinstance(w, Conv2dWorkload)
    params: Params = [("x", (w.batch, w.in_height, w.in_width, padded_channels(w.in_channels)), "uint8")]
    if w.residual:
        params.append(("r", (w.batch, w.out_height, w.out_width, padded_channels(w.out_channels)), "uint8"))
    return params


def range_params(request: Request) -> Params:
    """Parameters bias, multiplier, q, f, the table when there is one, and the output."""
    w = request.workload
    assert isinstance(w, Conv2dWorkload)
    out = blocks(w.out_channels) * BLOCK
    params: Params = [("bias", (out,), "int32"), ("multiplier", (out,), "float32")]
    params += [("Q", (8,), "int32"), ("F", (4,), "float32")]
    if not is_clamp(w.activation):
        params.append(("table", (256,), "uint8"))
    cells = w.out_channels if request.out_bits == 32 else padded_channels(w.out_channels)
    dtype = "float32" if request.out_bits == 32 else "uint8"
    params.append(("out", (w.batch, w.out_height, w.out_width, cells), dtype))
    return params
