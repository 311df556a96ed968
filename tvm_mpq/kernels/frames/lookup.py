"""The frame of convolutions that sum by look-up: bands of output rows, tiles of positions x channels, and threads.

Of each input row, something is prepared that all output channels share: tables of sums, or packed bits. The rows of a
whole map are prepared at once where they fit a cache; else a band's new rows are, and then serve all kernel positions
and all output channels of the band.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import (
    Buffer,
    Function,
    Index,
    Parameter,
    Task,
    Value,
    alloc,
    bind,
    branch,
    copy,
    equal,
    fill,
    function,
    if_then_else,
    let,
    loop,
    maximum,
    minimum,
    overlap,
    split,
    split_axis,
    tiles,
    within,
)
from tvm_mpq.kernels.frames.requantize import Cell, Requantizer, convolution_parameters
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import stored_channels
from tvm_mpq.kernels.shapes.lookup import LookupShape
from tvm_mpq.kernels.work import Tiling, Work, array_bytes, convolution_work

_SIZES = (64, 16, 4)
"""Bytes of the vectors that copy a row."""


@dataclass(frozen=True)
class LookupTile:
    """`columns` output positions from column `ow` on, times `parts` parts of output channels from number `part` on.

    slot: which prepared row a row of the kernel reads.
    """

    columns: int
    parts: int
    ow: Value
    part: Value
    slot: Callable[[Index], Index]

    @property
    def cells(self) -> list[tuple[int, int]]:
        """(position, part) of each accumulator."""
        return [(p, b) for p in range(self.columns) for b in range(self.parts)]


class LookupMachine(ABC):
    """What one way of summing by look-up does within the frame's loops.

    lanes: int32 lanes of a vector of sums; part_channels: output channels that one vector of weights holds; threads:
    those that are worth their start; parts: of the output channels in one tile; weight: the packed weights.
    """

    lanes: int
    part_channels: int

    def __init__(self, request: Request, shape: LookupShape, parts: int) -> None:
        self.request, self.shape = request, shape
        self.all_parts = tiles(stored_channels(request), self.part_channels)
        self.parts = min(parts, self.all_parts)
        self.threads = request.threads

    @property
    @abstractmethod
    def weight(self) -> Parameter:
        """The packed weights."""

    @property
    @abstractmethod
    def lookups(self) -> int:
        """Vectors that one output position and part of the channels look up."""

    @property
    @abstractmethod
    def weight_loads(self) -> int:
        """Vectors of weights that one part of the channels has."""

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Bytes of a prepared row."""

    @abstractmethod
    def prepare(self, slots: int, weights: Buffer) -> None:
        """Allocate `slots` rows and bind constants; once per call."""

    @abstractmethod
    def build_row(self, line: Buffer, start: Index, slot: Index, task: Task) -> None:
        """Prepare row `slot` from the activations of an input row with its border, at `start` of `line`."""

    @abstractmethod
    def totals(self, tile: LookupTile, biases: list[Value]) -> list[list[Value]]:
        """int32 sums of a tile's products and the biases: for each position, one vector for each bias."""


class LookupFrame:
    """One convolution: the knobs {"columns", "band", "order"}, and a machine.

    columns: output positions of a tile; band: output rows whose prepared rows are held together; order: `positions` or
    `channels`, the outer loop.
    """

    def __init__(self, request: Request, knobs: Knobs, machine: LookupMachine) -> None:
        self.request, self.machine, self.shape = request, machine, machine.shape
        self.columns = min(int(knobs["columns"]), self.shape.out_width)
        self.band = min(int(knobs["band"]), self.shape.out_height)
        self.by_positions = knobs["order"] == "positions"
        self.slots = self.shape.slots(self.band)

    @property
    def whole(self) -> bool:
        """Whether all rows of an image are held together, by all threads."""
        return self.band == self.shape.out_height

    @property
    def parameters(self) -> Parameters:
        """What the kernel takes."""
        return convolution_parameters(self.request, self.machine.weight)

    @property
    def work(self) -> Work:
        """Each row is prepared once and then passes instead of the activations that it is made of."""
        s, machine, parameters = self.shape, self.machine, self.parameters
        tiling = Tiling(
            spots=s.batch * s.out_height * tiles(s.out_width, self.columns),
            positions=self.columns,
            parts=[(tiles(machine.all_parts, machine.parts), machine.parts)],
            steps=machine.lookups,
            by_positions=self.by_positions,
        )
        prepared = s.batch * s.rows * machine.row_bytes
        inputs = replace(tiling.input_passes(prepared), held_bytes=self.slots * machine.row_bytes)
        rows, width = (1, s.folded) if s.folded else (s.batch * s.out_height, s.out_width)
        outputs = rows * width * machine.all_parts * machine.part_channels
        return convolution_work(
            parameters,
            tiling,
            (tiling.weight_passes(array_bytes(parameters.constants[:1])), inputs),
            macs=outputs * s.kernel[0] * s.kernel[1] * s.in_cells,
            rows=rows,
            width=width,
            staged_bytes=prepared + s.batch * s.rows * s.columns * s.in_cells,
            weight_loads=machine.weight_loads,
        )

    def build(self) -> PrimFunc:
        """The kernel."""
        with function(self.parameters.all()) as f:
            _Writer(self, f).write()
        return f.func


class _Writer:
    """Writes the loops of one frame into an open function; n and oh: image and output row being written."""

    n: Value
    oh: Value

    def __init__(self, frame: LookupFrame, f: Function) -> None:
        self.frame, self.machine, self.s = frame, frame.machine, frame.shape
        self.threads = self.machine.threads
        self.x = f.flat("x")
        self.machine.prepare(frame.slots if frame.whole else self.threads * frame.slots, f.flat("weight"))
        self.line = alloc(self.threads * self.s.line_bytes, "uint8")
        self.zero_point = let(f.flat("Q")[0].cast("uint8"), "z")
        self.bias, self.multiplier = f.flat("bias"), f.flat("multiplier")
        self.requantizer = Requantizer(f, frame.request, self.machine.lanes)

    def write(self) -> None:
        if self.frame.whole:
            self._whole()
        else:
            with split(self.threads) as task:
                self._bands(task)

    def _whole(self) -> None:
        """All rows of an image, then all outputs."""
        s = self.s
        with loop(s.batch) as self.n:
            with split(self.threads) as task, loop(*task.share(s.rows)) as y:
                self._row(y, y, task)
            counts = {"rows": s.out_height, "channels": tiles(self.machine.all_parts, self.machine.parts)}
            axis = split_axis(counts, self.threads)
            with split(self.threads) as task:
                self.requantizer.locals()
                rows, groups = (task.share(n) if name == axis else (0, n) for name, n in counts.items())
                self._tiles(rows, groups, 0)

    def _bands(self, task: Task) -> None:
        """Bands of output rows; the rows that a band shares with the one before are still there."""
        s, frame = self.s, self.frame
        self.requantizer.locals()
        base = task.offset(frame.slots)
        with loop(s.batch) as self.n:
            low, high = (bind(end, "row_end") for end in task.share(s.out_height))
            with loop((high - low + (frame.band - 1)) // frame.band) as h:
                first = let(low + h * frame.band, "first")
                last = let(minimum(first + frame.band, high), "last")
                start, kept = first * s.stride[0], (first - 1) * s.stride[0] + s.kernel[0]  # rows of the band before
                new = let(if_then_else(equal(h, 0), start, maximum(start, kept)), "new")
                with loop((last - 1) * s.stride[0] + s.kernel[0] - new) as i:
                    y = let(new + i, "y")
                    self._row(y, base + y % frame.slots, task)
                self._tiles((first, last), (0, tiles(self.machine.all_parts, self.machine.parts)), base)

    def _row(self, y: Value, slot: Index, task: Task) -> None:
        start = task.offset(self.s.line_bytes)
        self._fill_line(y, start)
        self.machine.build_row(self.line, start, slot, task)

    def _fill_line(self, y: Value, start: Index) -> None:
        """The input row that row `y` of tables is made of, zero points around it."""
        s = self.s
        left = min(s.left, s.columns)
        taken = min(s.in_width, s.columns - left)
        if s.folded:
            source = let(minimum(y * s.out_width, s.folded - s.out_width) * s.in_cells, "source")
            copy(self.line, start, self.x, source, s.columns * s.in_cells, _SIZES)
            return
        in_row = let(y * s.row_scale - s.top, "in_row")
        with branch(within(0, in_row, s.in_height)) as (inside, outside):
            with inside:
                source = let((self.n * s.in_height + in_row) * (s.in_width * s.in_cells), "source")
                if s.column_scale > 1:  # without padding at the sides
                    with loop(s.columns) as i:
                        far = source + i * (s.column_scale * s.in_cells)
                        copy(self.line, start + i * s.in_cells, self.x, far, s.in_cells, _SIZES)
                else:
                    self._fill(start, left)
                    copy(self.line, start + left * s.in_cells, self.x, source, taken * s.in_cells, _SIZES)
                    self._fill(start + (left + taken) * s.in_cells, s.columns - left - taken)
            with outside:
                self._fill(start, s.columns)

    def _fill(self, start: Index, positions: int) -> None:
        fill(self.line, start, self.zero_point, positions * self.s.in_cells, _SIZES)

    def _tiles(self, rows: tuple[Index, Index], groups: tuple[Index, Index], base: Index) -> None:
        columns = (0, tiles(self.s.out_width, self.frame.columns))
        order = (rows, columns, groups) if self.frame.by_positions else (groups, rows, columns)
        with ExitStack() as stack:
            found = [stack.enter_context(loop(*ends)) for ends in order]
            self.oh, column, group = found if self.frame.by_positions else (*found[1:], found[0])
            ow = let(overlap(column, self.frame.columns, self.s.out_width), "ow")
            part = let(overlap(group, self.machine.parts, self.machine.all_parts), "part")
            self._tile(LookupTile(self.frame.columns, self.machine.parts, ow, part, partial(self._slot, base)))

    def _slot(self, base: Index, ky: Index) -> Index:
        """The prepared row that kernel row `ky` of the output row reads."""
        y = self.oh * self.s.stride[0] + ky
        return base + (y if self.frame.slots == self.s.rows else y % self.frame.slots)

    def _tile(self, tile: LookupTile) -> None:
        s, lanes, width = self.s, self.machine.lanes, self.machine.part_channels
        vectors = width // lanes  # of a part
        channels = [tile.part * width + v * lanes for v in range(tile.parts * vectors)]
        biases = [let(self.bias.load(channel, lanes), "bias") for channel in channels]
        totals = self.machine.totals(tile, biases)
        multipliers = [let(self.multiplier.load(channel, lanes), "multiplier") for channel in channels]
        if s.folded:
            row = minimum(self.oh * s.out_width, s.folded - s.out_width)
        else:
            row = (self.n * s.out_height + self.oh) * s.out_width
        first = let(row + tile.ow, "position")
        cells = []
        for p, row_totals in enumerate(totals):
            position = first + p
            for v, total in enumerate(row_totals):
                if self.machine.all_parts > 1 or v * lanes < self.requantizer.stored:
                    last = v // vectors == tile.parts - 1
                    cells.append(Cell(total, multipliers[v], position, channels[v], last))
        self.requantizer.finish(cells)
