"""The loops around look-up convolutions: bands of output rows, tiles of positions x channels, and threads.

The tables of a whole map are built at once where they fit a cache; else a band's new rows are built, then serve all
kernel positions and all output channels of the band.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack

from tvm_mpq.kernels.emit.tiles import split_axis, tiles
from tvm_mpq.kernels.lut.shape import LutShape
from tvm_mpq.kernels.tir import Code, Task


class LookUpFrame(ABC):
    """Writes the loops; what a row of tables and a tile are, the subclass says.

    columns, channels: extents of a tile, positions x vectors of output channels; all_channels: such vectors in all;
    band: output rows whose tables are held together; order: `positions` or `channels`, the outer loop.
    The code reads n, oh, ow and part: image, output row, and first column and channel vector of a tile.
    """

    def __init__(
        self, shape: LutShape, threads: int, columns: int, channels: int, all_channels: int, band: int, order: str
    ) -> None:
        self.s, self.threads, self.order = shape, threads, order
        self.columns = min(columns, shape.out_width)
        self.channels, self.all_channels = min(channels, all_channels), all_channels
        self.band = min(band, shape.out_height)
        self.slots = shape.slots(self.band)
        self.code = Code()

    @property
    def whole(self) -> bool:
        return self.band == self.s.out_height

    @property
    def all_slots(self) -> int:
        """Rows of tables in memory: of a whole map they are shared, else each thread has its own."""
        return self.slots if self.whole else self.threads * self.slots

    @abstractmethod
    def build_row(self, y: str, slot: str, task: Task) -> None:
        """Code that fills row `slot` with the tables of table row `y` of image `n`."""

    @abstractmethod
    def locals(self) -> None:
        """Buffers that each thread needs for itself."""

    @abstractmethod
    def tile(self, base: str) -> None:
        """Code that computes one tile; `base` is for `row_slot`."""

    def row_slot(self, base: str, ky: str) -> str:
        """The row of tables in memory that kernel row `ky` of output row `oh` reads."""
        y = f"(oh * {self.s.stride[0]} + {ky})"
        return f"({base} + {y if self.slots == self.s.rows else f'{y} % {self.slots}'})"

    def position(self) -> None:
        """Bind `position`, the index of a tile's first output position."""
        s = self.s
        if s.folded:
            self.code.let("position", f"T.min(oh * {s.out_width}, {s.folded - s.out_width}) + ow")
        else:
            self.code.let("position", f"(n * {s.out_height} + oh) * {s.out_width} + ow")

    def loops(self) -> None:
        """All of the work: call it once, when buffers and constants are bound."""
        if self.whole:
            self._whole()
        else:
            with Task(self.code, self.threads) as task:
                self._bands(task)

    def _whole(self) -> None:
        """All tables of an image, then all outputs."""
        s, code = self.s, self.code
        with code.block(f"for n in range({s.batch}):"):
            with Task(code, self.threads) as task, code.block(f"for y in range({', '.join(task.part(s.rows))}):"):
                self.build_row("y", "y", task)
            counts = {"rows": s.out_height, "channels": tiles(self.all_channels, self.channels)}
            split = split_axis(counts, self.threads)
            with Task(code, self.threads) as task:
                self.locals()
                rows, groups = (task.part(n) if axis == split else ("0", str(n)) for axis, n in counts.items())
                self._tiles(rows, groups, "0")

    def _bands(self, task: Task) -> None:
        """Bands of output rows; the rows of tables that a band shares with the one before are still there."""
        s, code = self.s, self.code
        self.locals()
        base = task.offset(self.slots)
        with code.block(f"for n in range({s.batch}):"):
            low, high = task.part(s.out_height)
            code.let("row_low", low)
            code.let("row_high", high)
            with code.block(f"for h in range((row_high - row_low + {self.band - 1}) // {self.band}):"):
                code.let("first", f"row_low + h * {self.band}")
                code.let("last", f"T.min(first + {self.band}, row_high)")
                kept = f"(first - 1) * {s.stride[0]} + {s.kernel[0]}"  # rows up to here were built for the last band
                start = f"T.if_then_else(h == 0, first * {s.stride[0]}, T.max(first * {s.stride[0]}, {kept}))"
                code.let("new", start)
                with code.block(f"for yi in range((last - 1) * {s.stride[0]} + {s.kernel[0]} - new):"):
                    code.let("y", "new + yi")
                    self.build_row("y", f"{base} + y % {self.slots}", task)
                self._tiles(("first", "last"), ("0", str(tiles(self.all_channels, self.channels))), base)

    def _tiles(self, rows: tuple[str, str], groups: tuple[str, str], base: str) -> None:
        s, code = self.s, self.code
        columns = ("0", str(tiles(s.out_width, self.columns)))
        loops = [("oh", rows), ("tile", columns), ("g", groups)]
        with ExitStack() as stack:
            for name, (low, high) in loops if self.order == "positions" else [loops[2], *loops[:2]]:
                stack.enter_context(code.block(f"for {name} in range({low}, {high}):"))
            self._start("ow", "tile", self.columns, s.out_width)
            self._start("part", "g", self.channels, self.all_channels)
            self.tile(base)

    def _start(self, name: str, index: str, tile: int, extent: int) -> None:
        exact = extent % tile == 0
        self.code.let(name, f"{index} * {tile}" if exact else f"T.min({index} * {tile}, {extent - tile})")
