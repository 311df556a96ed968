"""Depthwise convolution: smull and smlal of 16 channels, as many taps as 16 bits hold before saddw widens the sums."""

from __future__ import annotations

from typing import Any

from tvm_mpq.kernels.conv.dense import DenseFrame, LaneVector
from tvm_mpq.kernels.conv.portable import Elementwise
from tvm_mpq.kernels.conv_neon.centre import bind_centre, load_centred
from tvm_mpq.kernels.conv_neon.pairwise import exact_depth
from tvm_mpq.kernels.frames.geometry import BLOCK, ChannelTiles
from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.tir import Code, Script, intrin, ramp

_SMULL = "llvm.aarch64.neon.smull"
_UNROLLED_TAPS = 25  # larger kernels loop over their rows


class ByteLanes(Elementwise):
    """Weights int8[C/16, KH * KW, 16]; x less its centre."""

    def __init__(self, activation_bits: int) -> None:
        self.activation_bits = activation_bits

    def header(self, code: Code) -> None:
        bind_centre(code, self.activation_bits)


def build_depthwise(request: Request, knobs: Knobs) -> Script:
    """The depthwise convolution of `request` with tile knobs {"rows", "columns", "blocks", "order"}."""
    return _Depthwise(request, knobs).build()


class _Depthwise(DenseFrame):
    """The dense frame around a reduction that sees all taps at once."""

    def __init__(self, request: Request, knobs: Knobs) -> None:
        super().__init__(request, knobs, ByteLanes(request.precision.activation_bits))
        self.depth = exact_depth(request.precision.weight_bits, request.precision.activation_bits)

    def _reduce(
        self, positions: list[tuple[int, int]], vectors: list[LaneVector], accs: list[list[str]], part: ChannelTiles
    ) -> None:
        g, code = self.g, self.code
        kh, kw = g.kernel
        plane = "0" if g.bordered else f"n * {g.in_height}"
        corner = f"(({plane}) + oh * {g.stride[0]}) * {g.row_width} + ow * {g.stride[1]}"
        code.let("x_tile", f"base + ({corner}) * {g.in_cells} + {self.window.start_code('block')}")
        code.let("w_tile", f"block * {self.block_bytes}")
        if kh * kw <= _UNROLLED_TAPS:
            self._taps([(y, x) for y in range(kh) for x in range(kw)], "x_tile", "w_tile", positions, accs)
            return
        with code.block(f"for ky in range({kh}):"):
            code.let("x_row", f"x_tile + ky * {g.dilation[0] * g.row_width * g.in_cells}")
            code.let("w_row", f"w_tile + ky * {kw * BLOCK}")
            self._taps([(0, x) for x in range(kw)], "x_row", "w_row", positions, accs)

    def _taps(
        self, taps: list[tuple[int, int]], x: str, w: str, positions: list[tuple[int, int]], accs: list[list[str]]
    ) -> None:
        """Add the products of `taps`, whose weights lie behind each other from `w`."""
        g, code = self.g, self.code
        for t in range(len(taps)):
            code.let(f"w{t}", f"W[{ramp(f'{w} + {t * BLOCK}', BLOCK)}]")
        loaded: dict[Any, str] = {}
        for p, (row, column) in enumerate(positions):
            for first in range(0, len(taps), self.depth):
                group = range(first, min(first + self.depth, len(taps)))
                names = []
                for t in group:
                    y = row * g.stride[0] + taps[t][0] * g.dilation[0]
                    at = (y * g.row_width + column * g.stride[1] + taps[t][1] * g.dilation[1]) * g.in_cells
                    if at not in loaded:
                        loaded[at] = code.let(f"x{len(loaded)}", load_centred(f"{x} + {at}"))
                    names.append(loaded[at])
                halves = []
                for h in range(2):
                    lanes = list(range(8 * h, 8 * h + 8))
                    products = [
                        intrin("int16x8", _SMULL, f"T.Shuffle([{name}], {lanes})", f"T.Shuffle([w{t}], {lanes})")
                        for name, t in zip(names, group, strict=True)
                    ]
                    halves.append(code.let(f"s{p}_{first}_{h}", " + ".join(products)))
                acc = accs[p][0]
                joined = f"T.Shuffle([{', '.join(halves)}], {list(range(BLOCK))})"
                code.line(f'{acc} = {acc} + T.Cast("int32x{BLOCK}", {joined})')
