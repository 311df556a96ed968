"""The frame of depthwise float convolutions: a vector of channels, a run of neighbouring columns in registers.

Nothing is copied. A chunk of channels is done for all rows before the next one: so few channels that the input rows
under a kernel stay in the first-level cache until the last output row has read them. Kernel rows outside the input are
left out by the bounds of the row loop; columns outside it are known when the code is generated, because the first and
last tiles of a row have code of their own.
"""

from __future__ import annotations

from tvm.tirx import PrimFunc

from tvm_mpq.kernels.emit import (
    Function,
    Index,
    Parameter,
    Task,
    Value,
    accumulators,
    activate,
    function,
    let,
    loop,
    maximum,
    minimum,
    overlap,
    split,
    tiles,
)
from tvm_mpq.kernels.frames.float_convolution import TASKS_PER_THREAD
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import conv_of
from tvm_mpq.kernels.work import Tiling, Work, array_bytes, convolution_work


def depthwise_parameters(request: Request) -> Parameters:
    """Weight and bias as `pack_depthwise` lays them out."""
    w = conv_of(request)
    x = Parameter("x", (w.batch, w.in_height, w.in_width, w.in_channels), "float32")
    out_shape = (w.batch, w.out_height, w.out_width, w.out_channels)
    weight = Parameter("weight", (w.kernel[0] * w.kernel[1] * w.out_channels,), "float32")
    activations = (x, Parameter("r", out_shape, "float32")) if w.residual else (x,)
    return Parameters(
        activations, (weight, Parameter("bias", (w.out_channels,), "float32")), Parameter("out", out_shape, "float32")
    )


def depthwise_work(request: Request, knobs: Knobs) -> Work:
    """The work of one run of `build_depthwise`, as if all kernel positions lay inside the input."""
    w, parameters = conv_of(request), depthwise_parameters(request)
    taps = w.kernel[0] * w.kernel[1]
    vectors = tiles(w.out_channels, knobs["lanes"])
    spots = w.batch * w.out_height * tiles(w.out_width, knobs["cols"])
    tiling = Tiling(spots, knobs["cols"], [(vectors, 1)], taps, by_positions=False)
    return convolution_work(
        parameters,
        tiling,
        (
            tiling.weight_passes(array_bytes(parameters.constants[:1])),
            tiling.input_passes(array_bytes(parameters.activations[:1]), 1 / vectors),
        ),
        macs=w.batch * w.out_height * w.out_width * vectors * knobs["lanes"] * taps,
        rows=w.batch * w.out_height,
        width=w.out_width,
    )


def build_depthwise(request: Request, knobs: Knobs) -> PrimFunc:
    """The convolution of `request` with tile knobs {"lanes", "cols", "chunks"}."""
    with function(depthwise_parameters(request).all()) as f:
        _Writer(request, knobs, f).write()
    return f.func


class _Writer:
    """Writes the loops of one convolution into an open function.

    row, image: of the output that is being written; ih: the input row under its kernel's first; kernel_rows: those of
    the kernel that lie inside the input; chunk: the channels that are being done.
    """

    row: Value
    image: Value
    ih: Value
    kernel_rows: tuple[Value, Value]
    chunk: Task

    def __init__(self, request: Request, knobs: Knobs, f: Function) -> None:
        self.w, self.threads = conv_of(request), request.threads
        self.lanes, self.columns, self.chunks = knobs["lanes"], knobs["cols"], knobs["chunks"]
        self.channels = self.w.out_channels
        self.x, self.weight, self.bias, self.out = (f.flat(name) for name in ("x", "weight", "bias", "out"))
        self.residual = f.flat("r") if self.w.residual else None

    def write(self) -> None:
        w, rows = self.w, self.w.batch * self.w.out_height
        with split(min(rows, self.threads * TASKS_PER_THREAD) if self.threads > 1 else 1) as task:
            self.accs = [row[0] for row in accumulators(self.columns, [self.lanes], "float32")]
            with loop(self.chunks) as chunk, loop(*task.share(rows)) as self.row:
                self.chunk = Task(self.chunks, chunk)
                self.image = let(self.row // w.out_height, "image")
                self.ih = let(self.row % w.out_height * w.stride[0] - w.padding[0], "ih")
                step = w.dilation[0]
                first = let(maximum((0 - self.ih + (step - 1)) // step, 0), "first")
                stop = let(minimum((w.in_height - 1 + step - self.ih) // step, w.kernel[0]), "stop")
                self.kernel_rows = first, stop
                self._row()

    def _row(self) -> None:
        """Tiles of one output row: those that touch a border are written out, the others share a loop."""
        starts = [min(c, self.w.out_width - self.columns) for c in range(0, self.w.out_width, self.columns)]
        inside = [s for s in starts if self._is_inside(s)]
        for start in [s for s in starts if not inside or s < inside[0]]:
            self._tile(start, start)
        if inside:
            with loop(len(inside)) as tile:
                ow = let(minimum(tile * self.columns + inside[0], inside[-1]), "ow")
                self._tile(ow, inside[0])
        for start in [s for s in starts if inside and s > inside[-1]]:
            self._tile(start, start)

    def _column(self, ow: int, kw: int) -> int:
        return ow * self.w.stride[1] - self.w.padding[1] + kw * self.w.dilation[1]

    def _is_inside(self, start: int) -> bool:
        last = self._column(start + self.columns - 1, self.w.kernel[1] - 1)
        return self._column(start, 0) >= 0 and last < self.w.in_width

    def _tile(self, ow: Index, example: int) -> None:
        """All channels of the columns from `ow` on; `example` tells which taps lie inside the input."""
        w, lanes, channels = self.w, self.lanes, self.channels
        with loop(*self.chunk.share(tiles(channels, lanes))) as v:
            c = let(overlap(v, lanes, channels), "c")
            for acc in self.accs:
                acc.value = self.bias.load(c, lanes)
            with loop(*self.kernel_rows) as kh:
                height = self.image * w.in_height + self.ih + kh * w.dilation[0]
                x = let((height * w.in_width + (ow * w.stride[1] - w.padding[1])) * channels + c, "x_tile")
                for kw in range(w.kernel[1]):
                    weight = let(self.weight.load((kh * w.kernel[1] + kw) * channels + c, lanes), "w")
                    for column, acc in enumerate(self.accs):
                        if 0 <= self._column(example + column, kw) < w.in_width:
                            shift = (column * w.stride[1] + kw * w.dilation[1]) * channels
                            acc.value = acc.value + self.x.load(x + shift, lanes) * weight
            y = let((self.row * w.out_width + ow) * channels + c, "y")
            for column, acc in enumerate(self.accs):
                place, value = y + column * channels, acc.value
                if self.residual is not None:
                    value = value + self.residual.load(place, lanes)
                self.out.store(place, activate(value, w.activation))
