"""The frame of a linear layer of few rows, whose time goes into reading weights: these are packed, and unpacked in
registers by masks. Activations and their sums, tiles of output channels, threads, requantization."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import (
    Buffer,
    Index,
    Parameter,
    Pointer,
    Register,
    Value,
    accumulators,
    alloc,
    broadcast4,
    clear,
    constant,
    function,
    let,
    loop,
    overlap,
    split,
)
from tvm_mpq.kernels.frames.requantize import Cell, Requantizer, convolution_parameters
from tvm_mpq.kernels.packing.linear import QUAD, SIGN_BIT, ByteCoding, LinearShape, unsigned_codes
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import conv_of, stored_channels, useful_threads
from tvm_mpq.kernels.work import Tiling, Work, array_bytes, convolution_work
from tvm_mpq.numerics.arrays import ByteArray, Int8Array
from tvm_mpq.schema import padded_channels


@dataclass(frozen=True)
class LinearTile:
    """What a machine adds up: a tile of output channels for all rows.

    inputs: s of each row, `shape.row_bytes` apart; weights: the first of the tile; ahead: how many bytes ahead weights
    are asked for, 0 for not at all.
    """

    shape: LinearShape
    inputs: Buffer
    weights: Pointer
    ahead: int

    def zero_sums(self) -> list[list[Register]]:
        """int32 sums of 0 for each row and part."""
        s = self.shape
        sums = accumulators(s.rows, [s.lanes] * s.parts, "int32")
        clear(sums)
        return sums

    def quads(self, step: Index) -> list[Value]:
        """Four signed activations of each row, repeated to a vector."""
        s = self.shape
        rows = [Pointer(self.inputs, r * s.row_bytes + step * QUAD) for r in range(s.rows)]
        return [let(broadcast4(row, s.lanes).reinterpret("int8", s.vector_bytes), "x") for row in rows]

    def packed(self, step: Index, vector: int) -> Value:
        """One byte vector of weights of a step, as int32 lanes."""
        s = self.shape
        at = self.weights.at(step * s.step_bytes + vector * s.vector_bytes)
        if self.ahead:
            at.buffer.prefetch(at.start + self.ahead)
        return at.load(s.vector_bytes).reinterpret("int32", s.lanes)


class LinearMachine(ABC):
    """How one machine makes packed weights meet activations, added up in int32.

    lanes: int32 lanes of a vector; registers: vector registers; sign: what is taken off stored activations; pieces: in
    which an activation is multiplied or looked up.
    """

    lanes: int
    registers: int
    sign = SIGN_BIT
    pieces: int = 1

    def __init__(self, coding: ByteCoding) -> None:
        self.coding = coding

    @property
    def highest(self) -> int:
        """The greatest field in its place in the byte, where sums of such are shifted right; else 0."""
        return 0

    @abstractmethod
    def depths(self) -> list[int]:
        """Steps that one trip of the loop may take, the usual number first."""

    @abstractmethod
    def needed(self, rows: int, parts: int) -> int:
        """Registers in use with so many rows and parts of a tile."""

    def codes(self, weight: Int8Array, shape: LinearShape) -> ByteArray:
        """int8[O, I] -> uint8[O, steps, 4]: what each step reads of a channel, in one field of four bytes."""
        return unsigned_codes(weight, shape).reshape(len(weight), shape.steps, QUAD)

    def input_bytes(self, shape: LinearShape) -> int:
        """What `sums` reads of one row of activations."""
        return shape.row_bytes

    @abstractmethod
    def prepare(self, shape: LinearShape, inputs: Buffer) -> None:
        """Bind constants, and make of the activations what `sums` reads; once per call."""

    @abstractmethod
    def sums(self, tile: LinearTile) -> list[list[Value]]:
        """The loop over the input channels: sum u * s as int32 vectors, for each row and part of the tile."""


def linear_shape(request: Request, knobs: Knobs, machine: LinearMachine) -> LinearShape:
    """The shape of `request` with the knobs {"parts", "depth"}."""
    limits = knobs["parts"], knobs["depth"]
    return LinearShape.of(conv_of(request), machine.coding, machine.lanes, stored_channels(request), *limits)


def linear_parameters(request: Request, knobs: Knobs, machine: LinearMachine) -> Parameters:
    """What the function of `build_linear` takes."""
    weight = Parameter("weight", linear_shape(request, knobs, machine).weight_shape, "uint8")
    return convolution_parameters(request, weight)


def linear_work(request: Request, knobs: Knobs, machine: LinearMachine) -> Work:
    """The work of one run of `build_linear`: weights are read once, activations once a tile of channels."""
    s, parameters = linear_shape(request, knobs, machine), linear_parameters(request, knobs, machine)
    tiling = Tiling(1, s.rows, [(s.tiles, s.parts)], s.steps * machine.pieces, by_positions=False)
    prepared = s.rows * machine.input_bytes(s)
    return convolution_work(
        parameters,
        tiling,
        (tiling.weight_passes(array_bytes(parameters.constants[:1])), tiling.input_passes(prepared)),
        macs=s.rows * s.all_parts * s.lanes * s.steps * s.coding.inputs,
        rows=1,
        width=s.rows,
        staged_bytes=s.rows * s.row_bytes + (prepared if machine.input_bytes(s) != s.row_bytes else 0),
        weight_loads=s.steps * s.vectors / s.parts,
    )


def build_linear(request: Request, knobs: Knobs, machine: LinearMachine) -> PrimFunc:
    """The layer of `request` with knobs {"parts", "depth", "ahead"}."""
    s, threads = linear_shape(request, knobs, machine), useful_threads(conv_of(request), request.threads)
    with function(linear_parameters(request, knobs, machine).all()) as f:
        x, weights = f.flat("x"), f.flat("weight")
        bias, multiplier = f.flat("bias"), f.flat("multiplier")
        requantizer = Requantizer(f, request, machine.lanes)
        inputs, offsets = _activations(x, s, machine.sign)
        machine.prepare(s, inputs)
        with split(threads) as task:
            requantizer.locals()
            with loop(*task.share(s.tiles)) as t:
                part = let(overlap(t, s.parts, s.all_parts), "part")
                first = let(t * (s.steps * s.step_bytes), "w_tile")
                channel = let(part * s.lanes, "channel")
                sums = machine.sums(LinearTile(s, inputs, Pointer(weights, first), knobs["ahead"]))
                biases, multipliers = [], []
                for i in range(s.parts):
                    biases.append(let(bias.load(channel + i * s.lanes, s.lanes), "bias"))
                    multipliers.append(let(multiplier.load(channel + i * s.lanes, s.lanes), "multiplier"))
                cells = []
                for r, row in enumerate(sums):
                    offset, position = let(offsets[r].broadcast(s.lanes), "offset"), constant(r, "int32")
                    for i, total in enumerate(row):
                        scaled = total if s.coding.step == 1 else total * s.coding.step
                        acc, last = scaled + (biases[i] - offset), i == s.parts - 1
                        cells.append(Cell(acc, multipliers[i], position, channel, last, i * s.lanes))
                requantizer.finish(cells)
    return f.func


def _activations(x: Buffer, s: LinearShape, sign: int) -> tuple[Buffer, Buffer]:
    """Activations less the sign with zeros behind them, and coding offset * their sum, of each row.

    Plain loops, which LLVM turns into vectors. The zeros meet fields of 0: they need a value, whichever.
    """
    stored = padded_channels(s.channels)
    inputs, offsets = alloc(s.rows * s.row_bytes, "uint8"), alloc(s.rows, "int32")
    with loop(s.rows) as row:
        offsets[row] = 0
        with loop(s.channels) as i:
            value = let(x[row * stored + i] ^ sign, "s")
            inputs[row * s.row_bytes + i] = value
            number = value.reinterpret("int8", 1) if sign else value
            offsets[row] = offsets[row] + number.cast("int32") * s.coding.offset
        with loop(s.channels, s.row_bytes) as i:
            inputs[row * s.row_bytes + i] = 0
    return inputs, offsets
