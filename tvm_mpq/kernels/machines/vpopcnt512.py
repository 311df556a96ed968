"""AVX-512 VPOPCNTDQ: bits in which words of activations and of weights of one bit differ are counted.

For a weight w of -1 or 1 and a bit a of an activation, w * a = [w = 1] - [w = 1 differs from a]. So a sum of products
is the number of the channel's positive weights, a constant, less the ones in the exclusive or; a plane of bits of the
activations counts for as much as its bit.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import reduce
from operator import add

from tvm_mpq.kernels.emit import (
    Buffer,
    Index,
    Parameter,
    Register,
    Task,
    Value,
    accumulators,
    alloc,
    intrinsic,
    let,
    loop,
    popcount,
    zeros,
)
from tvm_mpq.kernels.frames.lookup import LookupMachine, LookupTile
from tvm_mpq.kernels.packing.bit_words import UNIT, UNIT_BYTES, WORD, WORD_BYTES, BitShape, word_shape
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, PARALLEL_MACS, conv_of

_TOP_BITS = {32: "llvm.x86.avx2.pmovmskb", 16: "llvm.x86.sse2.pmovmskb.128"}
_FASTER = 5  # than the products that PARALLEL_MACS speaks of


class BitLookup(LookupMachine):
    """Weights of one bit, activations of few; knob {"blocks"}: blocks of 16 channels of a tile.

    The planes of a row of packed activations follow each other, lowest bit first.
    """

    lanes = part_channels = BLOCK

    def __init__(self, request: Request, knobs: Knobs) -> None:
        w = conv_of(request)
        self.s = BitShape.of(w)
        super().__init__(request, self.s, knobs["blocks"])
        self.threads = request.threads if w.macs >= _FASTER * PARALLEL_MACS else 1
        self.planes = request.precision.activation_bits
        self.block_words = self.s.kernel[0] * self.s.words * BLOCK

    @property
    def weight(self) -> Parameter:
        return Parameter("weight", word_shape(self.s, conv_of(self.request).out_channels), "int32")

    @property
    def lookups(self) -> int:
        return self.weight_loads * self.planes

    @property
    def weight_loads(self) -> int:
        return self.s.kernel[0] * self.s.words

    @property
    def row_bytes(self) -> int:
        return self.planes * self.s.plane_bytes

    def prepare(self, slots: int, weights: Buffer) -> None:
        self.weights = weights
        self.packed = alloc(slots * self.row_bytes, "uint8")

    def build_row(self, line: Buffer, start: Index, slot: Index, task: Task) -> None:
        s = self.s
        whole, rest = divmod(s.in_channels, WORD)
        with loop(s.columns) as px:
            source = let(start + px * s.in_cells, "source")
            target = let(slot * self.row_bytes + px * (s.tables * UNIT_BYTES), "target")
            if whole:
                with loop(whole) as i:
                    self._pack(line, source + i * WORD, target + i * WORD_BYTES, WORD)
            if rest:
                self._pack(line, source + whole * WORD, target + whole * WORD_BYTES, rest)

    def _pack(self, line: Buffer, source: Index, target: Value, count: int) -> None:
        """The bits of up to 32 channels; those of channels that do not exist are 0."""
        width = UNIT if count <= UNIT else WORD
        x = let(line.load(source, width).reinterpret("uint16", width // 2), "x")
        for plane in range(self.planes):
            raised = (x << (7 - plane)).reinterpret("uint8", width)  # the bit to the top of each byte
            bits = intrinsic(_TOP_BITS[width], "int32", 1, raised)
            if count % UNIT:
                bits = bits & ((1 << count) - 1)
            if width == UNIT:
                bits = bits.cast("uint16")
            self.packed.store(target + plane * self.s.plane_bytes, bits.reinterpret("uint8", width // 8))

    def totals(self, tile: LookupTile, biases: list[Value]) -> list[list[Value]]:
        """Each plane has accumulators of its own; the bias goes to those of the lowest bit."""
        s = self.s
        accs = [accumulators(tile.parts, [BLOCK] * self.planes, "int32") for _ in range(tile.columns)]
        for row in accs:
            for planes, bias in zip(row, biases, strict=True):
                for i, acc in enumerate(planes):
                    acc.value = zeros(BLOCK, "int32") if i else bias
        whole = s.words - s.ends_in_half
        with ExitStack() as stack:
            ky = stack.enter_context(loop(s.kernel[0])) if s.kernel[0] > 1 else 0
            row_start = tile.slot(ky) * self.row_bytes
            x_row = let(row_start + tile.ow * (s.stride[1] * s.tables * UNIT_BYTES), "x_row")
            w_row = let(tile.part * self.block_words + ky * (s.words * BLOCK), "w_row")
            if whole:
                with loop(whole) as k:
                    self._step(x_row + k * WORD_BYTES, w_row + k * BLOCK, accs)
            if s.ends_in_half:
                self._step(x_row + whole * WORD_BYTES, w_row + whole * BLOCK, accs, half=True)
        return [
            [reduce(add, (acc.value << i if i else acc.value for i, acc in enumerate(planes))) for planes in row]
            for row in accs
        ]

    def _step(self, x: Value, w: Value, accs: list[list[list[Register]]], half: bool = False) -> None:
        """One word of every position and plane against one of every block of channels."""
        s = self.s
        weights = [let(self.weights.load(w + b * self.block_words, BLOCK), "w") for b in range(len(accs[0]))]
        for p, row in enumerate(accs):
            for i in range(self.planes):
                at = x + (p * s.stride[1] * s.tables * UNIT_BYTES + i * s.plane_bytes)
                if half:  # what follows belongs to the next position
                    word = self.packed.load(at, UNIT_BYTES).reinterpret("uint16", 1).cast("int32")
                else:
                    word = self.packed.load(at, WORD_BYTES).reinterpret("int32", 1)
                bits = let(word.broadcast(BLOCK), "bits")
                for planes, weight in zip(row, weights, strict=True):
                    planes[i].value = planes[i].value - popcount(bits ^ weight)
