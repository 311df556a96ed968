"""Source of the direct convolution: broadcast inputs times vectors of output channels, accumulators in registers.

Loops: tasks (batch x blocks of positions x chunks of channel groups) / groups / vectors of output channels / position
tiles / reduction. An input that needs a border or another type is first copied, block by block, into a scratch
(`staging`), so that the inner loops know neither. Tails of positions and of channels overlap their neighbours: the same
values are written twice.
"""

from __future__ import annotations

from tvm_mpq.kernels.float_conv.activations import ActivationCode
from tvm_mpq.kernels.float_conv.emit import Emitter, vec
from tvm_mpq.kernels.float_conv.products import Product
from tvm_mpq.kernels.float_conv.staging import Block, Source
from tvm_mpq.kernels.float_conv.tiling import Geometry, Knobs, column_block, row_block
from tvm_mpq.kernels.tir import Script
from tvm_mpq.schema import Conv2dWorkload

_TASKS_PER_THREAD = 2
"""So that a thread that was held up elsewhere can be helped out."""


def build_direct(w: Conv2dWorkload, knobs: Knobs, product: Product, threads: int) -> Script:
    """Kernel of `(x, [r], weight, bias, out)`; weight and bias as `packing.pack_direct` lays them out."""
    return _Direct(w, knobs, product, threads).build()


class _Direct:
    def __init__(self, w: Conv2dWorkload, knobs: Knobs, product: Product, threads: int) -> None:
        self.w, self.geo, self.product = w, Geometry.of(w), product
        geo = self.geo
        self.lanes, self.blocks = knobs["lanes"], knobs["blocks"]
        self.rows, self.cols = knobs["rows"], knobs["cols"]
        self.vectors = -(-geo.out_group // self.lanes)
        self.segment_steps = -(-geo.segment // product.width)
        self.taps = geo.segments * self.segment_steps * product.width
        out_shape = (w.batch, w.out_height, w.out_width, w.out_channels)
        buffers: list[tuple[str, tuple[int, ...]]] = [("x", (w.batch, w.in_height, w.in_width, w.in_channels))]
        if w.residual:
            buffers.append(("r", out_shape))
        packed = geo.groups * self.vectors * self.lanes
        buffers += [("w", (packed * self.taps,)), ("b", (packed,)), ("y", out_shape)]
        self.emitter = Emitter(f"{product.name}_conv2d", buffers, {"w": product.dtype})
        self.activation = ActivationCode(self.emitter, w.activation, self.lanes)
        self._split(threads)
        self.source = Source(geo, Block(self.block_rows, self.block_cols), product)

    def _split(self, threads: int) -> None:
        """Tasks: by positions, and by channels where the weights outweigh the map or the map is too small."""
        geo, wanted = self.geo, 1 if threads == 1 else threads * _TASKS_PER_THREAD
        by_columns = geo.out_height == 1 and not geo.padded
        tiles = -(-geo.out_width // self.cols) if by_columns else -(-geo.out_height // self.rows)
        full = self.vectors // self.blocks
        self.chunks = 1
        if wanted > 1 and (tiles < wanted or self.taps * geo.out_channels > 4 * geo.in_height * geo.in_width):
            self.chunks = min(full, wanted) or 1
        position_tasks = -(-wanted // (geo.batch * self.chunks))
        self.block_rows, self.block_cols = 1, geo.out_width
        if by_columns:
            self.block_cols = column_block(geo, self.cols, position_tasks)
            self.position_blocks = -(-geo.out_width // self.block_cols)
        else:
            self.block_rows = row_block(geo, self.rows, position_tasks)
            self.position_blocks = -(-geo.out_height // self.block_rows)
        self.parallel = threads > 1

    def build(self) -> Script:
        geo, e = self.geo, self.emitter
        loop = "T.parallel" if self.parallel else "range"
        with e.block(f"for task in {loop}({geo.batch * self.position_blocks * self.chunks}):"):
            e.line(f"chunk = task % {self.chunks}")
            e.line(f"block = task // {self.chunks} % {self.position_blocks}")
            e.line(f"image = task // {self.chunks * self.position_blocks}")
            e.line(f"oh_b = T.min(block * {self.block_rows}, {geo.out_height - self.block_rows})")
            if self.block_cols < geo.out_width:
                e.line(f"ow_b = T.min(block * {self.block_cols}, {geo.out_width - self.block_cols})")
            else:
                e.line("ow_b = 0")
            self.source.copy(e)
            self.activation.declare()
            with e.block(f"for g in range({geo.groups}):"):
                full, tail = divmod(self.vectors, self.blocks)
                if full:
                    bounds = str(full)
                    if self.chunks > 1:
                        bounds = f"chunk * {full} // {self.chunks}, (chunk + 1) * {full} // {self.chunks}"
                    with e.block(f"for j in range({bounds}):"):
                        self._channel_group("j", self.blocks)
                if tail:
                    with e.block(f"if chunk == {self.chunks - 1}:"):
                        self._channel_group(str(full), tail)
        return e.build(self.product.llvm())

    def _channel_group(self, j: str, blocks: int) -> None:
        """All positions of the block for `blocks` vectors of output channels, the `j`-th group of vectors."""
        geo, e = self.geo, self.emitter
        for n in range(blocks):
            start = f"({j} * {self.blocks} + {n}) * {self.lanes}"
            if geo.out_group % self.lanes:
                start = f"T.min({start}, {geo.out_group - self.lanes})"
            e.line(f"co{n} = g * {geo.out_group} + {start}")
        e.line(f"vector0 = g * {self.vectors} + {j} * {self.blocks}")
        for row in range(self.rows):
            for col in range(self.cols):
                for n in range(blocks):
                    e.vector_buffer(_acc(row, col, n), self.lanes)
        with e.block(f"for rt in range({-(-self.block_rows // self.rows)}):"):
            with e.block(f"for ct in range({-(-self.block_cols // self.cols)}):"):
                e.line(f"oh = oh_b + T.min(rt * {self.rows}, {self.block_rows - self.rows})")
                e.line(f"ow = ow_b + T.min(ct * {self.cols}, {self.block_cols - self.cols})")
                self._tile(blocks)

    def _tile(self, blocks: int) -> None:
        geo, e, lanes = self.geo, self.emitter, self.lanes
        for n in range(blocks):
            for row in range(self.rows):
                for col in range(self.cols):
                    e.line(f"{vec(_acc(row, col, n), '0', lanes)} = {vec('b', f'(vector0 + {n}) * {lanes}', lanes)}")
        e.line(f"x0 = {self.source.index('oh', 'ow')} + g * {geo.in_group}")
        e.line(f"w0 = vector0 * {lanes * self.taps}")
        (kh, kw), steps, width = geo.kernel, self.segment_steps, self.product.width
        step = blocks * lanes * width
        with e.block(f"for kh in range({kh}):"):
            e.line(f"x1 = x0 + kh * {geo.dilation[0] * self.source.row_size}")
            if geo.merged:
                with e.block(f"for k in range({steps}):"):
                    self._step(f"x1 + k * {width}", f"w0 + (kh * {steps} + k) * {step}", blocks)
            else:
                with e.block(f"for kw in range({kw}):"), e.block(f"for k in range({steps}):"):
                    x = f"x1 + kw * {geo.dilation[1] * geo.in_channels} + k * {width}"
                    self._step(x, f"w0 + ((kh * {kw} + kw) * {steps} + k) * {step}", blocks)
        self._epilogue(blocks)

    def _step(self, x: str, w: str, blocks: int) -> None:
        """One reduction step: every input of the tile times every weight vector."""
        e, lanes, product = self.emitter, self.lanes, self.product
        for n in range(blocks):
            e.let(f"w_{n}", product.weights(f"{w} + {n * lanes * product.width}", lanes))
        for row in range(self.rows):
            for col in range(self.cols):
                place = f"{x} + {self.source.shift(row, col)}"
                value = e.let(f"x_{row}_{col}", product.inputs(self.source.buffer, place, lanes))
                for n in range(blocks):
                    acc = vec(_acc(row, col, n), "0", lanes)
                    e.line(f"{acc} = {product.sum(acc, value, f'w_{n}', lanes)}")

    def _epilogue(self, blocks: int) -> None:
        geo, e, lanes = self.geo, self.emitter, self.lanes
        e.line(f"y0 = ((image * {geo.out_height} + oh) * {geo.out_width} + ow) * {geo.out_channels}")
        for row in range(self.rows):
            for col in range(self.cols):
                for n in range(blocks):
                    acc = _acc(row, col, n)
                    place = f"y0 + {(row * geo.out_width + col) * geo.out_channels} + co{n}"
                    if self.w.residual:
                        e.line(f"{vec(acc, '0', lanes)} = {vec(acc, '0', lanes)} + {vec('r', place, lanes)}")
                    self.activation.apply(acc)
                    e.line(f"{vec('y', place, lanes)} = {vec(acc, '0', lanes)}")


def _acc(row: int, col: int, block: int) -> str:
    return f"a{row}_{col}_{block}"
