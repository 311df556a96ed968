"""The end of an integer convolution: int32 accumulators to requantized bytes or floats, in registers.

y = float32(acc) * m, with a residual fma(float32(acc), m, float32(r - z_r) * m_r). Floats: y is clamped. Bytes, in
general: y is clamped to [lo - z, hi - z] as float, rounded half to even, narrowed and shifted by z modulo 256.

With AVX-512 four accumulators become 64 bytes by saturating packs, which clamp for nothing: float minimum and maximum
would run on the two ports that the products need. What is left to guard is a y beyond int32; the constants exclude it
for short sums (`ranges.bounded`), a float minimum does for the others (below -2^31 the conversion saturates by itself).
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.conv.packed import Quad, natural_quads, pack, scatter
from tvm_mpq.kernels.frames.geometry import BLOCK, blocks
from tvm_mpq.kernels.packing.ranges import bounded
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.tir import Code, Params, intrin, ramp
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.schema import Conv2dWorkload, padded_channels

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
    offset: int = 0  # added to `channel`; cells of one `channel` and successive offsets are stored together
    quads: tuple[Quad, ...] = ()  # where each four lanes belong, if not to 16 successive channels of `position`

    @property
    def places(self) -> tuple[Quad, ...]:
        return self.quads or natural_quads(self.position, self.channel, self.offset)


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
    def packs(self) -> bool:
        """Whether accumulators are packed in fours: 16 lanes to whole blocks of bytes on AVX-512."""
        whole = not self.floats and self.stored_channels % BLOCK == 0
        return whole and self.lanes == BLOCK and "avx512bw" in self.request.features

    @property
    def _wide_table(self) -> bool:
        return self.packs and "avx512vbmi" in self.request.features

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
        if self.packs:
            code.let("v_zw", 'T.Broadcast(T.Cast("int16", Q[1]), 32)')
            code.let("v_lo_b", 'T.Broadcast(T.Cast("uint8", Q[2]), 64)')
            code.let("v_hi_b", 'T.Broadcast(T.Cast("uint8", Q[3]), 64)')
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
            code.line(f'pre = T.alloc_buffer(({64 if self.packs else n},), "uint8")')

    def finish(self, code: Code, cells: list[Cell], name: str = "y") -> None:
        """Requantize and store all accumulators of a tile, or those whose names begin with `name`."""
        if self.packs:
            for start in range(0, len(cells), 4):
                self._finish_packed(code, f"{name}{start}", cells[start : start + 4])
            return
        if not self.has_table:
            for i, cell in enumerate(cells):
                self._store(code, self._clamped(code, f"{name}{i}", cell), cell)
            return
        for i, cell in enumerate(cells):
            value = self._clamped(code, f"{name}{i}", cell)
            self._store(code, self._look_up(code, value, f"{name}_i{i}"), cell)

    def _finish_packed(self, code: Code, name: str, cells: list[Cell]) -> None:
        """One to four accumulators to bytes."""
        vectors = []
        as_float = self.workload.residual or not bounded(self.workload, self.request.precision.weight_bits)
        for i, cell in enumerate(cells):
            y = self._scaled(code, cell)
            vectors.append(code.let(f"{name}_{i}", self._rounded(f"T.min({y}, v_hi)" if as_float else y)))
        packed = pack(code, name, vectors)
        if self.workload.activation != "none":
            packed = code.let(f"{name}_lo", f"T.max({packed}, v_lo_b)")
        if not as_float:  # an output of fewer than 8 bits ends below what the packs saturate to
            packed = code.let(f"{name}_hi", f"T.min({packed}, v_hi_b)")
        if self.has_table and self._wide_table:
            packed = self._permuted(code, packed, name)
        elif self.has_table:
            packed = code.let(f"{name}_post", self._look_up(code, packed, f"{name}_i", 64))
        scatter(code, packed, [cell.places for cell in cells], self.stored_channels)

    def _scaled(self, code: Code, cell: Cell) -> str:
        """y of one accumulator."""
        n = self.lanes
        y = f'T.Cast("float32x{n}", {cell.acc})'
        if not self.workload.residual:
            return f"{y} * {cell.multiplier}"
        loaded = self._residual_quads(cell) if self.packs else self._residual(code, cell)
        r = f'T.Cast("float32x{n}", T.Cast("int32x{n}", {loaded}) - v_zr)'
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

    def _residual_quads(self, cell: Cell) -> str:
        """The residual's bytes of a packed cell, lane by lane, in as few loads as its quads allow."""
        places, stored = cell.places, self.stored_channels
        for count in (4, 2, 1):
            runs = [places[i : i + count] for i in range(0, 4, count)]
            if all(q == Quad(r[0].position, r[0].channel, r[0].offset + 4 * i) for r in runs for i, q in enumerate(r)):
                break
        at = [f"({r[0].position}) * {stored} + {r[0].channel} + {r[0].offset}" for r in runs]
        loads = [f"R[{ramp(a, 4 * count)}]" for a in at]
        return loads[0] if count == 4 else f"T.Shuffle([{', '.join(loads)}], {list(range(16))})"

    def _residual(self, code: Code, cell: Cell) -> str:
        stored = padded_channels(self.workload.out_channels)
        offset = f"({cell.position}) * {stored} + {cell.channel} + {cell.offset}"
        if stored % self.lanes == 0:
            return f"R[{ramp(offset, self.lanes)}]"
        code.line(f"r_tail[{ramp(0, stored)}] = R[{ramp(offset, stored)}]")
        return f"r_tail[{ramp(0, self.lanes)}]"

    def _look_up(self, code: Code, value: str, name: str, size: int = 0) -> str:
        """A vector of `size` bytes (one accumulator's) through the table, byte by byte."""
        size = size or self.lanes
        code.line(f"pre[{ramp(0, size)}] = {value}")
        with code.block(f"for {name} in range({size}):"):
            code.line(f'pre[{name}] = table[T.Cast("int32", pre[{name}])]')
        return f"pre[{ramp(0, size)}]"

    def _permuted(self, code: Code, v: str, name: str) -> str:
        """64 bytes through the table: two permutes of 128 entries and a choice by the top bit."""
        low = intrin("uint8x64", _PERMUTE_2, "v_t0", v, "v_t1")
        high = intrin("uint8x64", _PERMUTE_2, "v_t2", v, "v_t3")
        return code.let(f"{name}_post", f"T.Select({v} < T.Broadcast(T.uint8(128), 64), {low}, {high})")

    def _store(self, code: Code, value: str, cell: Cell) -> None:
        """Write one vector of outputs, or the part of it that exists."""
        n, total = self.lanes, self.stored_channels
        first = f"{cell.channel} + {cell.offset}"
        offset = f"({cell.position}) * {total} + {first}"
        tail = total % n
        past = blocks(total) * BLOCK - total >= n  # a whole vector of the last block lies past the end
        if not ((tail or past) and cell.maybe_last):
            code.line(f"O[{ramp(offset, n)}] = {value}")
        elif total > n:
            with code.block(f"if {first} + {n} <= {total}:"):
                code.line(f"O[{ramp(offset, n)}] = {value}")
            if tail:
                with code.block("else:"), code.block(f"if {first} < {total}:"):
                    self._store_tail(code, value, offset, tail)
        elif not tail:
            code.line(f"O[{ramp(offset, n)}] = {value}")
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
