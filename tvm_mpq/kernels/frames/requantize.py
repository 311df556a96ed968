"""The end of a tile of an integer convolution: int32 accumulators to requantized bytes or floats, in registers.

y = float32(acc) * m, with a residual fma(float32(acc), m, float32(r - z_r) * m_r). Floats: y is clamped. Bytes, in
general: y is clamped to [lo - z, hi - z] as float, rounded half to even, narrowed and shifted by z modulo 256.

With AVX2 and AVX-512 four accumulators become bytes by packs that saturate. Saturation is a clamp that costs nothing,
where float minimum and maximum would run on the two ports that the products need. What is left to guard is a y beyond
int32: the constants exclude it for short sums (`ranges.bounded`), a float minimum does for the others (below -2^31 the
conversion saturates by itself).
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.emit.code import Function, Parameter, alloc, branch, let, loop, when
from tvm_mpq.kernels.emit.quads import Quad, natural_quads, pack, scatter
from tvm_mpq.kernels.emit.quantize import ByteTable, centered, rounded
from tvm_mpq.kernels.emit.value import Index, Value, clamp, constant, fma, intrinsic, maximum, minimum, shuffle
from tvm_mpq.kernels.features import VBMI
from tvm_mpq.kernels.packing.ranges import bounded
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, blocks, conv_of, stored_channels
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.schema import FLOAT_BITS, padded_channels

_ROUND_512 = "llvm.x86.avx512.mask.cvtps2dq.512"
_ROUND_256 = "llvm.x86.avx.cvt.ps2dq.256"


@dataclass(frozen=True)
class Cell:
    """One accumulator at the end of a tile, and where its lanes belong."""

    acc: Value
    multiplier: Value
    position: Value  # index of the output position, n * OH * OW + oh * OW + ow
    channel: Value  # first channel of the tile
    maybe_last: bool = True  # whether the vector can reach past the last channel
    offset: int = 0  # added to `channel`; cells of one `channel` and successive offsets are stored together
    quads: tuple[Quad, ...] = ()  # where each four lanes belong, if not to 16 successive channels of `position`

    @property
    def places(self) -> tuple[Quad, ...]:
        """Where each four lanes belong."""
        return self.quads or natural_quads(self.position, self.channel, self.offset, self.acc.lanes)


class Requantizer:
    """Writes the code that ends a tile; `lanes` int32 lanes make one accumulator.

    Made once, at the top of the function: it binds the ranges. `locals` declares what each thread needs for itself.
    """

    def __init__(self, f: Function, request: Request, lanes: int) -> None:
        self.request, self.lanes, self.workload = request, lanes, conv_of(request)
        self.floats = request.out_bits == FLOAT_BITS
        self.has_table = not is_clamp(self.workload.activation)
        self.stored = stored_channels(request)
        whole = not self.floats and self.stored % BLOCK == 0
        self.packs = whole and {16: "avx512bw", 8: "avx2"}.get(lanes) in request.features
        """Whether accumulators are packed in fours, to whole blocks of bytes."""
        self._wide_table: ByteTable | None = None
        self._clamps = not self.floats or self.workload.activation != "none"
        q, floats = f.flat("Q"), f.flat("F")
        self._out = f.flat("out")
        if self.floats:
            if self._clamps:
                self._low = let(floats[1].broadcast(lanes), "low")
                self._high = let(floats[2].broadcast(lanes), "high")
        else:
            self._low = let((q[2] - q[1]).cast("float32").broadcast(lanes), "low")
            self._high = let((q[3] - q[1]).cast("float32").broadcast(lanes), "high")
            self._zero_point = let(q[1].cast("uint8").broadcast(lanes), "zero_point")
        if self.packs:
            self._zero_point_words = let(q[1].cast("int16").broadcast(2 * lanes), "zero_point_words")
            self._low_bytes = let(q[2].cast("uint8").broadcast(4 * lanes), "low_bytes")
            self._high_bytes = let(q[3].cast("uint8").broadcast(4 * lanes), "high_bytes")
        if self.workload.residual:
            self._residual = f.flat("r")
            self._residual_zero = let(q[4].broadcast(lanes), "residual_zero")
            self._residual_multiplier = let(floats[0].broadcast(lanes), "residual_multiplier")
        if self.has_table:
            self._table = f.flat("table")
            if self.packs and lanes == 16 and request.features >= VBMI:
                self._wide_table = ByteTable(self._table)

    def locals(self) -> None:
        """Declare the small buffers that each thread needs for itself."""
        n, residual_cells = self.lanes, padded_channels(self.workload.out_channels)
        if self.stored % n:
            self._tail = alloc(n, self._out.dtype)
        if self.workload.residual and residual_cells % n:
            self._residual_tail = alloc(n, "uint8")
            self._residual_tail.store(0, constant(0, "uint8", n))
        if self.has_table and not self._wide_table:
            self._looked_up = alloc(4 * n if self.packs else n, "uint8")

    def finish(self, cells: list[Cell]) -> None:
        """Requantize and store all accumulators of a tile."""
        if self.packs:
            for start in range(0, len(cells), 4):
                self._finish_packed(cells[start : start + 4])
            return
        for cell in cells:
            value = self._clamped(cell)
            self._store(self._look_up(value) if self.has_table else value, cell)

    def _finish_packed(self, cells: list[Cell]) -> None:
        """One to four accumulators to bytes."""
        self.finish_ints([self.to_ints(cell) for cell in cells], cells)

    @property
    def _limits_floats(self) -> bool:
        return self.workload.residual or not bounded(self.workload, self.request.precision.weight_bits)

    def to_ints(self, cell: Cell) -> Value:
        """int32 of one accumulator, rounded, for `finish_ints`."""
        y = self._scaled(cell)
        return let(self._rounded(minimum(y, self._high) if self._limits_floats else y), "y")

    def finish_ints(self, vectors: list[Value], cells: list[Cell]) -> None:
        """Pack and store what `to_ints` made of one to four cells; only where sums are packed."""
        packed = pack(vectors, self._zero_point_words)
        if self.workload.activation != "none":
            packed = let(maximum(packed, self._low_bytes), "packed")
        if not self._limits_floats:  # an output of fewer than 8 bits ends below what the packs saturate to
            packed = let(minimum(packed, self._high_bytes), "packed")
        if self.has_table:
            packed = let(self._wide_table.look_up(packed) if self._wide_table else self._look_up(packed), "activated")
        scatter(self._out, packed, [cell.places for cell in cells], self.stored)

    def _scaled(self, cell: Cell) -> Value:
        """y of one accumulator."""
        y = cell.acc.cast("float32")
        if not self.workload.residual:
            return y * cell.multiplier
        loaded = self._residual_quads(cell) if self.packs else self._residual_vector(cell)
        r = centered(loaded, self._residual_zero)
        return fma(y, cell.multiplier, r * self._residual_multiplier)

    def _clamped(self, cell: Cell) -> Value:
        """y of one accumulator, clamped; bytes when the output is."""
        y = self._scaled(cell)
        if self._clamps:
            y = clamp(y, self._low, self._high)
        if self.floats:
            return let(y, "y")
        return let(self._rounded(y).cast("uint8") + self._zero_point, "y")

    def _rounded(self, y: Value) -> Value:
        """An int32 vector whose low bytes are those of rint(y), |y| <= 255."""
        n, features = self.lanes, self.request.features
        if n == 16 and "avx512f" in features:
            all_lanes, as_the_cpu_is_set = constant(-1, "int16"), constant(4, "int32")
            return intrinsic(_ROUND_512, "int32", 16, y, constant(0, "int32", 16), all_lanes, as_the_cpu_is_set)
        if n == 8 and "avx2" in features:
            return intrinsic(_ROUND_256, "int32", 8, y)
        return rounded(y)

    def _residual_quads(self, cell: Cell) -> Value:
        """The residual's bytes of a packed cell, lane by lane, in as few loads as its quads allow."""
        places = cell.places
        for count in (4, 2, 1):
            runs = [places[i : i + count] for i in range(0, len(places), count)]
            if all(q == Quad(r[0].position, r[0].channel, r[0].offset + 4 * i) for r in runs for i, q in enumerate(r)):
                break
        loads = [self._residual.load(r[0].index(self.stored), 4 * len(r)) for r in runs]
        return loads[0] if len(loads) == 1 else shuffle(loads, range(self.lanes))

    def _residual_vector(self, cell: Cell) -> Value:
        stored = padded_channels(self.workload.out_channels)
        offset = cell.position * stored + cell.channel + cell.offset
        if stored % self.lanes == 0:
            return self._residual.load(offset, self.lanes)
        self._residual_tail.store(0, self._residual.load(offset, stored))
        return self._residual_tail.load(0, self.lanes)

    def _look_up(self, value: Value) -> Value:
        """A vector of bytes through the table, byte by byte."""
        self._looked_up.store(0, value)
        with loop(value.lanes) as i:
            self._looked_up[i] = self._table[self._looked_up[i].cast("int32")]
        return self._looked_up.load(0, value.lanes)

    def _store(self, value: Value, cell: Cell) -> None:
        """Write one vector of outputs, or the part of it that exists."""
        n, total = self.lanes, self.stored
        first = cell.channel + cell.offset
        offset = cell.position * total + first
        tail = total % n
        past = blocks(total) * BLOCK - total >= n  # a whole vector of the last block lies past the end
        if not ((tail or past) and cell.maybe_last):
            self._out.store(offset, value)
        elif total > n:
            if not tail:
                with when(first + n <= total):
                    self._out.store(offset, value)
                return
            with branch(first + n <= total) as (whole, rest):
                with whole:
                    self._out.store(offset, value)
                with rest, when(first < total):
                    self._store_tail(value, offset, tail)
        elif not tail:
            self._out.store(offset, value)
        else:
            self._store_tail(value, offset, tail)

    def _store_tail(self, value: Value, offset: Index, tail: int) -> None:
        self._tail.store(0, value)
        done = 0
        for size in (8, 4, 2, 1):
            if tail & size:
                self._out.store(offset + done, self._tail.load(done, size))
                done += size


def convolution_parameters(request: Request, weight: Parameter, biases: int = 1) -> Parameters:
    """Parameters of an integer convolution or linear layer whose packed weights are `weight`.

    Behind the weights come bias, multiplier, Q, F, and the table of an activation that is no clamp. Q holds zero points
    of input and output, the output's range and the residual's zero point; F the residual's multiplier and the output's
    range as floats. biases: how many each channel has, one behind the other.
    """
    w = conv_of(request)
    activations = [Parameter("x", (w.batch, w.in_height, w.in_width, padded_channels(w.in_channels)), "uint8")]
    if w.residual:
        activations.append(
            Parameter("r", (w.batch, w.out_height, w.out_width, padded_channels(w.out_channels)), "uint8")
        )
    lanes = blocks(w.out_channels) * BLOCK
    constants = [weight, Parameter("bias", (biases * lanes,), "int32"), Parameter("multiplier", (lanes,), "float32")]
    constants += [Parameter("Q", (8,), "int32"), Parameter("F", (4,), "float32")]
    if not is_clamp(w.activation):
        constants.append(Parameter("table", (256,), "uint8"))
    dtype = "float32" if request.out_bits == FLOAT_BITS else "uint8"
    out = Parameter("out", (w.batch, w.out_height, w.out_width, stored_channels(request)), dtype)
    return Parameters(tuple(activations), tuple(constants), out)
