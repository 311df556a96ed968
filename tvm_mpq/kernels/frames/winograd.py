"""The frame of 3x3 convolutions by Winograd's transform, in whole numbers (`packing.winograd`).

Of each tile of inputs, points^2 transformed vectors of channels are stored in 16 bits, for a band of rows of tiles at
once. Each of the points^2 is then a 1x1 convolution of its own, whose sums go to a scratch for one tile of channels and
are transformed to outputs there. Where tiles do not divide the map, the last ones are moved back and compute some
outputs twice.
"""

from __future__ import annotations

from tvm_mpq.kernels.emit import (
    Parameter,
    tiles,
)
from tvm_mpq.kernels.frames.machine import Dot
from tvm_mpq.kernels.frames.requantize import convolution_parameters
from tvm_mpq.kernels.packing.winograd import TRANSFORMS, packed_shape
from tvm_mpq.kernels.parameters import Parameters
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.shapes.geometry import BLOCK, Geometry, blocks, conv_of, useful_threads
from tvm_mpq.kernels.work import Tiling, Work, array_bytes, convolution_work

_PREFETCHED_BYTES = 131_072
_APART = 64  # bytes between the vectors of two points beside their own, lest they meet in one set of the cache


class WinogradFrame:
    """One convolution: knobs {"outputs", "band", "columns"}.

    outputs: of a tile, in each direction; band: rows of tiles that are transformed together; columns: tiles whose sums
    stay in registers, for 16 output channels. machine: reads int16 inputs, two channels a step.
    """

    def __init__(self, request: Request, knobs: Knobs, machine: Dot) -> None:
        self.request, self.machine, self.workload = request, machine, conv_of(request)
        self.transform = TRANSFORMS[knobs["outputs"]]
        self.g = Geometry.of(self.workload, request.out_bits)
        self.all_blocks = blocks(self.workload.out_channels)
        self.columns = int(knobs["columns"])
        size = self.transform.outputs_at_once
        self.down, self.across = tiles(self.g.out_height, size), tiles(self.g.out_width, size)
        self.threads = useful_threads(self.workload, request.threads)
        self.band = min(int(knobs["band"]), self.down)
        self.products = self.transform.points**2
        shape = packed_shape(self.transform, self.all_blocks, self.g.in_cells)
        self.weight = Parameter("weight", shape, "int8")

    @property
    def prefetches(self) -> bool:
        """Whether weights are asked for ahead: not those that a cache holds from one band to the next."""
        return array_bytes([self.weight]) >= _PREFETCHED_BYTES

    @property
    def vectors(self) -> int:
        """Of a block of output channels."""
        return BLOCK // self.machine.lanes

    @property
    def bands(self) -> int:
        """How many cover the map."""
        return tiles(self.down, self.band)

    @property
    def tiles(self) -> int:
        """Of one band."""
        return self.band * self.across

    @property
    def whole(self) -> bool:
        """Whether threads share the channels of one band; otherwise each has bands of its own."""
        return self.bands == 1

    @property
    def input_stride(self) -> int:
        """Elements from the transformed inputs of one product to those of the next."""
        return self.tiles * self.g.in_cells + _APART // 2

    @property
    def sum_stride(self) -> int:
        """Elements from the sums of one product to those of the next."""
        return self.tiles * BLOCK + _APART // 4

    @property
    def scratch(self) -> int:
        """Bytes of an image with its border."""
        return self.g.rows * self.g.row_width * self.g.in_cells

    @property
    def parameters(self) -> Parameters:
        """What the kernel takes."""
        return convolution_parameters(self.request, self.weight)

    @property
    def work(self) -> Work:
        """Products are those of the transformed inputs; these are staged, and so are the sums."""
        g, parameters = self.g, self.parameters
        steps = g.in_cells // self.machine.channels
        positions = g.batch * self.bands * self.tiles
        tiling = Tiling(
            spots=positions * self.products / self.columns,
            positions=self.columns,
            parts=[(self.all_blocks, self.vectors)],
            steps=steps,
            by_positions=False,
        )
        weight = array_bytes(parameters.constants[:1])
        inputs, sums = (
            2 * positions * self.products * g.in_cells,
            4 * positions * self.products * self.all_blocks * BLOCK,
        )
        return convolution_work(
            parameters,
            tiling,
            (tiling.weight_passes(weight), tiling.input_passes(inputs)),
            macs=positions * self.products * g.in_cells * self.all_blocks * BLOCK,
            rows=g.batch * g.out_height,
            width=g.out_width,
            staged_bytes=inputs + sums + (g.batch * self.scratch if g.bordered else 0),
        )
