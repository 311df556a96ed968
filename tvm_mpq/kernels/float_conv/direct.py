"""Source of the direct convolution: broadcast inputs times vectors of output channels, accumulators in registers.

Loops: tasks (batch x blocks of positions x chunks of channel groups) / groups / vectors of output channels / position
tiles / reduction. A padded input is first copied, block by block, into a bordered scratch buffer, so that the inner
loops know no borders. Tails of positions and of channels overlap their neighbours: the same values are written twice.
"""

from __future__ import annotations

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.float_conv.activations import ActivationCode
from tvm_mpq.kernels.float_conv.emit import Emitter, splat, vec
from tvm_mpq.kernels.float_conv.tiling import Geometry, Knobs, column_block, row_block
from tvm_mpq.schema import Conv2dWorkload

_TASKS_PER_THREAD = 2
"""So that a thread that was held up elsewhere can be helped out."""


def build_direct(w: Conv2dWorkload, knobs: Knobs, threads: int) -> PrimFunc:
    """PrimFunc `(x, [r], weight, bias, out)`; weight and bias as `packing.pack_direct` lays them out."""
    return _Direct(w, knobs, threads).build()


class _Direct:
    def __init__(self, w: Conv2dWorkload, knobs: Knobs, threads: int) -> None:
        self.w, self.geo = w, Geometry.of(w)
        geo = self.geo
        self.lanes, self.blocks = knobs["lanes"], knobs["blocks"]
        self.rows, self.cols = knobs["rows"], knobs["cols"]
        self.vectors = -(-geo.out_group // self.lanes)
        self.taps = geo.kernel[0] * geo.kernel[1] * geo.in_group
        out_shape = (w.batch, w.out_height, w.out_width, w.out_channels)
        buffers: list[tuple[str, tuple[int, ...]]] = [("x", (w.batch, w.in_height, w.in_width, w.in_channels))]
        if w.residual:
            buffers.append(("r", out_shape))
        packed = geo.groups * self.vectors * self.lanes
        buffers += [("w", (packed * self.taps,)), ("b", (packed,)), ("y", out_shape)]
        self.emitter = Emitter("f32_conv2d", buffers)
        self.activation = ActivationCode(self.emitter, w.activation, self.lanes)
        self._split(threads)

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

    def build(self) -> PrimFunc:
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
            if geo.padded:
                self._border_copy()
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
        return e.build()

    def _border_copy(self) -> None:
        """Input rows of this block into `s`, zeros where they lie outside."""
        geo, e = self.geo, self.emitter
        top, left, _, _ = geo.padding
        channels, width = geo.in_channels, geo.row_width
        taken = min(geo.in_width, width - left)
        rows = geo.rows_for(self.block_rows)
        e.line(f's = T.alloc_buffer(({rows * width * channels},), "float32")')
        with e.block(f"for i in range({rows}):"):
            e.line(f"ih = oh_b * {geo.stride[0]} - {top} + i")
            e.line(f"s_row = i * {width * channels}")
            with e.block(f"if ih >= 0 and ih < {geo.in_height}:"):
                e.fill_zero("s", "s_row", left * channels, self._wide)
                source = f"(image * {geo.in_height} + ih) * {geo.in_width * channels}"
                e.copy("s", f"s_row + {left * channels}", "x", source, taken * channels, self._wide)
                right = (width - left - taken) * channels
                e.fill_zero("s", f"s_row + {(left + taken) * channels}", right, self._wide)
            with e.block("else:"):
                e.fill_zero("s", "s_row", width * channels, self._wide)

    @property
    def _wide(self) -> int:
        return max(self.lanes, 4)

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
        row_size = geo.row_width * geo.in_channels
        first_row = "(oh - oh_b)" if geo.padded else f"image * {geo.in_height} + oh"
        first_row += f" * {geo.stride[0]}"
        e.line(f"x0 = ({first_row}) * {row_size} + ow * {geo.stride[1] * geo.in_channels} + g * {geo.in_group}")
        e.line(f"w0 = vector0 * {lanes * self.taps}")
        kh, kw = geo.kernel
        step = blocks * lanes
        with e.block(f"for kh in range({kh}):"):
            e.line(f"x1 = x0 + kh * {geo.dilation[0] * row_size}")
            if geo.groups == 1 and (geo.dilation[1] == 1 or kw == 1):  # a kernel row is contiguous
                with e.block(f"for k in range({kw * geo.in_group}):"):
                    self._step("x1 + k", f"w0 + (kh * {kw * geo.in_group} + k) * {step}", blocks)
            else:
                with e.block(f"for kw in range({kw}):"), e.block(f"for k in range({geo.in_group}):"):
                    x = f"x1 + kw * {geo.dilation[1] * geo.in_channels} + k"
                    self._step(x, f"w0 + ((kh * {kw} + kw) * {geo.in_group} + k) * {step}", blocks)
        self._epilogue(blocks)

    def _step(self, x: str, w: str, blocks: int) -> None:
        """One reduction step: every input of the tile times every weight vector."""
        geo, e, lanes = self.geo, self.emitter, self.lanes
        source = "s" if geo.padded else "x"
        for row in range(self.rows):
            for col in range(self.cols):
                shift = row * geo.stride[0] * geo.row_width * geo.in_channels + col * geo.stride[1] * geo.in_channels
                value = splat(f"{source}[{x} + {shift}]", lanes)
                for n in range(blocks):
                    acc = vec(_acc(row, col, n), "0", lanes)
                    e.line(f"{acc} = {acc} + {value} * {vec('w', f'{w} + {n * lanes}', lanes)}")

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
