"""What all carriers share: flat views of tensors, loops over vectors, rounding to bytes, rows of constants.

A carrier moves or combines activations without weights. Loops walk vectors of a fixed number of lanes; where a length
is not a multiple of it, the last vector overlaps the one before it: nothing is masked, nothing outside is touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from tvm_mpq.kernels.registry import Knobs, Request
from tvm_mpq.kernels.tir import Code, Params, Script, ramp
from tvm_mpq.numerics.constants import Finish
from tvm_mpq.schema import FLOAT_BITS, padded_channels

INTEGER_BITS = frozenset(range(1, 9))
FLOAT_ONLY = frozenset({FLOAT_BITS})
GENERIC: frozenset[str] = frozenset()

_PARALLEL_FROM = 50_000  # elements of `add`, about 7 us: below, starting threads costs more than it saves
_MAGIC = "T.float32(12582912.0)"  # 1.5 * 2^23: adding it rounds |y| < 2^22 half to even into the float's low bits


class Carrier(Code):
    """A function whose parameters of several axes are read and written through flat aliases of their own names."""

    def __init__(self, request: Request, params: Params) -> None:
        super().__init__()
        self._request = request
        self._params: Params = []
        for name, shape, dtype in params:
            flat = len(shape) == 1
            self._params.append((name if flat else f"{name}_nd", shape, dtype))
            if not flat:
                self.line(f'{name} = T.decl_buffer(({math.prod(shape)},), "{dtype}", data={name}_nd.data)')

    def build(self) -> Script:
        return self.script(self._params)

    @contextmanager
    def rows(self, name: str, count: int, elements: int) -> Iterator[None]:
        """A loop over `count` rows, on several threads when `elements` in all (of `add`) make it worth while."""
        split = count > 1 and self._request.threads > 1 and elements > _PARALLEL_FROM
        kind = "T.parallel" if split else "range"
        with self.block(f"for {name} in {kind}({count}):"):
            yield

    @contextmanager
    def flat(self, total: int, lanes: int, *, ease: int = 1) -> Iterator[int]:
        """A loop over `total` elements; yields the lanes in use, the body finds the vector's start in `i`.

        ease: how many elements take as long as one of `add`.
        """
        lanes = fit_lanes(total, lanes)
        with self.rows("v", -(-total // lanes), total // ease):
            self.let("i", f"v * {lanes}" if total % lanes == 0 else f"T.min(v * {lanes}, {total - lanes})")
            yield lanes

    @contextmanager
    def span(self, name: str, count: int, lanes: int) -> Iterator[int]:
        """A serial loop over `count` neighbours; yields the lanes in use, the body finds a vector's start in `name`."""
        lanes = fit_lanes(count, lanes)
        vectors = -(-count // lanes)
        if vectors == 1:
            self.let(name, "0")
            yield lanes
            return
        with self.block(f"for {name}_v in range({vectors}):"):
            exact = count % lanes == 0
            self.let(name, f"{name}_v * {lanes}" if exact else f"T.min({name}_v * {lanes}, {count - lanes})")
            yield lanes

    def fill(self, buffer: str, start: str, count: int, value: str, lanes: int) -> None:
        """Write the scalar `value` to `count` neighbours."""
        if count:
            with self.span("fill", count, lanes) as width:
                self.line(f"{vec(buffer, f'{start} + fill', width)} = {splat(value, width)}")

    def rounding(self, zero_point: str, lo: str, hi: str) -> None:
        """Bind what `rounded` needs, from int32 scalars: the output's zero point and bounds."""
        self.let("z_byte", f'T.Cast("uint8", {zero_point})')
        self.let("y_lo", f'T.Cast("float32", {lo} - {zero_point})')
        self.let("y_hi", f'T.Cast("float32", {hi} - {zero_point})')


def rounded(y: str, lanes: int) -> str:
    """clamp(rint(y) + zero_point, lo, hi) as bytes; the clamp comes first, at the same integers, so nothing overflows.

    max before min: a NaN becomes the lower bound.
    """
    clamped = f"T.min(T.max({y}, {splat('y_lo', lanes)}), {splat('y_hi', lanes)})"
    bits = f'T.reinterpret("{lane_type("int32", lanes)}", {clamped} + {splat(_MAGIC, lanes)})'
    return f'T.Cast("{lane_type("uint8", lanes)}", {bits}) + {splat("z_byte", lanes)}'


def centered(values: str, zero_point: str, lanes: int) -> str:
    """float32(values - zero_point), exact; values uint8 or uint16, zero_point an int32 scalar."""
    wide = f'T.Cast("{lane_type("int32", lanes)}", {values}) - {splat(zero_point, lanes)}'
    return f'T.Cast("{lane_type("float32", lanes)}", {wide})'


def vec(buffer: str, start: str, lanes: int) -> str:
    """`lanes` neighbours of a flat buffer."""
    return f"{buffer}[{start}]" if lanes == 1 else f"{buffer}[{ramp(start, lanes)}]"


def splat(value: str, lanes: int) -> str:
    return value if lanes == 1 else f"T.Broadcast({value}, {lanes})"


def lane_type(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def fit_lanes(count: int, lanes: int) -> int:
    """The most lanes, a power of two up to `lanes`, that `count` elements fill.

    >>> fit_lanes(7, 16), fit_lanes(100, 16)
    (4, 16)
    """
    return min(lanes, 1 << (count.bit_length() - 1))


def dividing_lanes(count: int, lanes: int) -> int:
    """The most lanes, a power of two up to `lanes`, that divide `count`."""
    return math.gcd(count, lanes)


def stored_shape(shape: tuple[int, ...], is_float: bool) -> tuple[int, ...]:
    """The physical shape of a channels-last tensor."""
    return shape if is_float else (*shape[:-1], padded_channels(shape[-1]))


def one_choice(request: Request) -> list[Knobs]:
    """Carriers have no knobs."""
    return [{}]


def is_integer(request: Request) -> bool:
    """Bytes in, bytes out."""
    precision = request.precision
    return precision.weight_bits == precision.activation_bits and request.out_bits <= 8


def is_float(request: Request) -> bool:
    return request.out_bits == FLOAT_BITS


def int_row(*values: int, size: int = 8) -> npt.NDArray[np.int32]:
    """int32[size], zeros at the end."""
    row = np.zeros(size, np.int32)
    row[: len(values)] = values
    return row


def float_row(*values: npt.ArrayLike, size: int = 4) -> npt.NDArray[np.float32]:
    """float32[size], zeros at the end."""
    row = np.zeros(size, np.float32)
    for i, value in enumerate(values):
        row[i] = value
    return row


def tables(end: Finish) -> list[npt.NDArray[np.uint8]]:
    """The table as the contract's optional constant."""
    return [] if end.table is None else [end.table]
