"""Where the inner loops read their inputs: in place, or from a scratch that a task fills first.

The scratch holds the input rows of a block of output positions, with a border of zeros where the convolution has
padding, in the type that the arithmetic wants. Under a 1x1 kernel with strides it holds only the positions that are
read.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.kernels.float_conv.emit import Emitter
from tvm_mpq.kernels.float_conv.products import Product
from tvm_mpq.kernels.float_conv.tiling import Geometry

_LANES = 16


@dataclass(frozen=True)
class Block:
    """Output rows and columns of one task, which begin at `oh_b` and `ow_b` of the generated code."""

    rows: int
    cols: int


class Source:
    """The buffer of inputs that one task reads; `copy` fills it where it is a scratch."""

    def __init__(self, geo: Geometry, block: Block, product: Product) -> None:
        self._geo, self._block, self._product = geo, block, product
        self._staged = geo.padded or product.converts
        self._sampled = self._staged and not geo.padded and geo.kernel == (1, 1) and geo.stride != (1, 1)
        self._stride = (1, 1) if self._sampled else geo.stride
        self.buffer = "s" if self._staged else "x"

    @property
    def _width(self) -> int:
        """Positions of one row of the buffer."""
        if not self._staged:
            return self._geo.in_width
        return (self._block.cols - 1) * self._stride[1] + (self._geo.kernel[1] - 1) * self._geo.dilation[1] + 1

    @property
    def row_size(self) -> int:
        """Elements from one row of the buffer to the next."""
        return self._width * self._geo.in_channels

    def index(self, oh: str, ow: str) -> str:
        """Element under the first kernel position of an output position of this block."""
        row, col = (f"({oh} - oh_b)", f"({ow} - ow_b)") if self._staged else (oh, ow)
        row = f"{row} * {self._stride[0]}"
        if not self._staged:
            row = f"image * {self._geo.in_height} + {row}"
        return f"({row}) * {self.row_size} + {col} * {self._stride[1] * self._geo.in_channels}"

    def shift(self, rows: int, cols: int) -> int:
        """Elements between the inputs of output positions so many rows and columns apart."""
        return rows * self._stride[0] * self.row_size + cols * self._stride[1] * self._geo.in_channels

    def copy(self, e: Emitter) -> None:
        """Fill the scratch for the block at `oh_b`, `ow_b`."""
        if not self._staged:
            return
        geo, dtype = self._geo, self._product.dtype
        rows = self._block.rows if self._sampled else geo.rows_for(self._block.rows)
        size, slack = rows * self.row_size, self._product.width - 1  # a last step reads past a row of odd length
        e.line(f's = T.alloc_buffer(({size + slack},), "{dtype}")')
        e.fill_zero("s", str(size), slack, _LANES, dtype)
        with e.block(f"for i in range({rows}):"):
            if self._sampled:
                self._copy_positions(e)
            elif geo.padded:
                self._copy_padded(e)
            else:
                row = f"(image * {geo.in_height} + oh_b * {geo.stride[0]} + i) * {geo.in_width}"
                source = f"({row} + ow_b * {geo.stride[1]}) * {geo.in_channels}"
                self._copy(e, f"i * {self.row_size}", source, self.row_size)

    def _copy(self, e: Emitter, start: str, source: str, count: int) -> None:
        e.copy("s", start, "x", source, count, _LANES, self._product.converted)

    def _copy_positions(self, e: Emitter) -> None:
        geo, channels = self._geo, self._geo.in_channels
        row = f"(image * {geo.in_height} + (oh_b + i) * {geo.stride[0]}) * {geo.in_width}"
        with e.block(f"for p in range({self._width}):"):
            source = f"({row} + (ow_b + p) * {geo.stride[1]}) * {channels}"
            self._copy(e, f"i * {self.row_size} + p * {channels}", source, channels)

    def _copy_padded(self, e: Emitter) -> None:
        """A row with its border; columns are not split where there is padding."""
        geo, channels, dtype = self._geo, self._geo.in_channels, self._product.dtype
        top, left, _, _ = geo.padding
        taken = min(geo.in_width, self._width - left)
        e.line(f"ih = oh_b * {geo.stride[0]} - {top} + i")
        e.line(f"s_row = i * {self.row_size}")
        with e.block(f"if ih >= 0 and ih < {geo.in_height}:"):
            e.fill_zero("s", "s_row", left * channels, _LANES, dtype)
            source = f"(image * {geo.in_height} + ih) * {geo.in_width * channels}"
            self._copy(e, f"s_row + {left * channels}", source, taken * channels)
            right = (self._width - left - taken) * channels
            e.fill_zero("s", f"s_row + {(left + taken) * channels}", right, _LANES, dtype)
        with e.block("else:"):
            e.fill_zero("s", "s_row", self.row_size, _LANES, dtype)
