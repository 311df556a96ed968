"""Input rows in a scratch with zero points around them, so that reduction loops never ask where they are."""

from __future__ import annotations

from tvm_mpq.kernels.frames.geometry import Geometry
from tvm_mpq.kernels.tir import Code, ramp


def fill_border(code: Code, g: Geometry, rows: int, low: str, high: str) -> None:
    """Copy what the output row tiles low..high-1 of `rows` rows read from XI to X at `base`, zero points around it."""
    top, left, _, right = g.padding
    code.let("z", 'T.Cast("uint8", Q[0])')
    reach = (rows - 1) * g.stride[0] + (g.kernel[0] - 1) * g.dilation[0] + 1
    first = f"T.min(({low}) * {rows}, {g.out_height - rows}) * {g.stride[0]}"
    last = f"T.min(({high}) * {rows} - {rows}, {g.out_height - rows}) * {g.stride[0]} + {reach}"
    row_bytes, wide = g.in_width * g.in_cells, g.row_width * g.in_cells
    with code.block(f"for y in range({first}, {last}):"):
        code.let("row", f"base + y * {wide}")
        with code.block(f"if T.And({top} <= y, y < {top + g.in_height}):"):
            _fill(code, "row", left * g.in_cells, "yl")
            code.let("source", f"(n * {g.in_height} + y - {top}) * {row_bytes}")
            _copy(code, f"row + {left * g.in_cells}", "source", row_bytes)
            _fill(code, f"row + {left * g.in_cells + row_bytes}", right * g.in_cells, "yr")
        with code.block("else:"):
            _fill(code, "row", wide, "yt")


def _fill(code: Code, offset: str, count: int, index: str) -> None:
    for start, size, times in _chunks(count):
        value = f"T.Broadcast(z, {size})"
        if times > 1:
            with code.block(f"for {index} in range({times}):"):
                code.line(f"X[{ramp(f'{offset} + {start} + {index} * {size}', size)}] = {value}")
        else:
            code.line(f"X[{ramp(f'{offset} + {start}', size)}] = {value}")


def _copy(code: Code, target: str, source: str, count: int) -> None:
    for start, size, times in _chunks(count):
        with code.block(f"for i in range({times}):"):
            at = f"{start} + i * {size}"
            code.line(f"X[{ramp(f'{target} + {at}', size)}] = XI[{ramp(f'{source} + {at}', size)}]")


def _chunks(count: int) -> list[tuple[int, int, int]]:
    """(start, size, times) that cover `count` bytes, in vectors of 64 bytes and smaller ones for the rest."""
    out, start = [], 0
    for size in (64, 32, 16, 8, 4):
        times = (count - start) // size
        if times:
            out.append((start, size, times))
            start += times * size
    return out
