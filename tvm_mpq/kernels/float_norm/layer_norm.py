"""Source of layer normalisation along the last axis: y = (x - mean) / sqrt(variance + epsilon) * gamma + beta.

A row is read once from memory, centered in a small buffer, and written once. Bytes are dequantized on the way in and
quantized on the way out, so that a network whose other operators work on bytes needs no boundary around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm_mpq.kernels.float_attention.vectors import across
from tvm_mpq.kernels.float_norm.text import lane_type, rounded, splat, vec
from tvm_mpq.kernels.machines.float32 import native_lanes
from tvm_mpq.kernels.tir import Code, Params, Script

_Body = Callable[[str, int, int], None]
_PARALLEL_FROM = 50_000  # elements below which starting threads costs more than it saves


@dataclass(frozen=True)
class NormShape:
    """shape: of input and output; from_bytes, to_bytes: uint8 there, for which channels must be stored unpadded."""

    shape: tuple[int, ...]
    epsilon: float
    from_bytes: bool = False
    to_bytes: bool = False

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        total = 1
        for extent in self.shape[:-1]:
            total *= extent
        return total


def build_layer_norm(shape: NormShape, features: frozenset[str], threads: int = 1) -> Script:
    """Kernel of `(x, [q_in, f_in], gamma, beta, [q_out, f_out], out)`; q and f as in the `convert` kernels."""
    code, channels = Code(), shape.channels
    lanes = native_lanes(features)
    while lanes > channels:
        lanes //= 2
    params: Params = [("x_nd", shape.shape, "uint8" if shape.from_bytes else "float32")]
    if shape.from_bytes:
        params += [("q_in", (8,), "int32"), ("f_in", (4,), "float32")]
    params += [("gamma", (channels,), "float32"), ("beta", (channels,), "float32")]
    if shape.to_bytes:
        params += [("q_out", (8,), "int32"), ("f_out", (4,), "float32")]
    params.append(("out_nd", shape.shape, "uint8" if shape.to_bytes else "float32"))
    for name, _, dtype in (params[0], params[-1]):
        flat = name.removesuffix("_nd")
        code.line(f'{flat} = T.decl_buffer(({shape.rows * channels},), "{dtype}", data={name}.data)')
    if shape.from_bytes:
        code.let("s_in", "f_in[0]")
    if shape.to_bytes:
        _scaled_weights(code, channels)
    parallel = threads > 1 and shape.rows > 1 and shape.rows * channels > _PARALLEL_FROM
    with code.block(f"for r in {'T.parallel' if parallel else 'range'}({shape.rows}):"):
        code.line(f'row = T.alloc_buffer(({channels},), "float32")')
        code.line(f'total = T.alloc_buffer(({lanes},), "float32")')
        _Row(code, shape, lanes).write()
    return code.script(params)


def _scaled_weights(code: Code, channels: int) -> None:
    """gamma and beta in units of the output's steps, with its zero point; and what `rounded` needs besides."""
    code.let("z_byte", "T.uint8(0)")
    code.let("y_lo", 'T.Cast("float32", q_out[2])')
    code.let("y_hi", 'T.Cast("float32", q_out[3])')
    for name in ("gamma", "beta"):
        code.line(f'{name}_q = T.alloc_buffer(({channels},), "float32")')
    with code.block(f"for c in range({channels}):"):
        code.line("gamma_q[c] = gamma[c] / f_out[0]")
        code.line('beta_q[c] = beta[c] / f_out[0] + T.Cast("float32", q_out[0])')


class _Row:
    """The code for one row r, which `row` holds as floats; a last vector overlaps the one before it.

    Bytes are centered as they are: neither their zero point nor, but for epsilon, their scale changes the result.
    """

    def __init__(self, code: Code, shape: NormShape, lanes: int) -> None:
        self._code, self._shape, self._lanes = code, shape, lanes

    def write(self) -> None:
        code, lanes, total = self._code, self._lanes, vec("total", "0", self._lanes)
        channels = self._shape.channels
        code.line(f"{total} = {self._splat('T.float32(0)')}")
        self._each(self._load, lanes)
        mean = f"{across(code, 'sum', total, lanes, '{a} + {b}')} / T.float32({channels})"
        code.let("mean", mean)
        code.line(f"{total} = {self._splat('T.float32(0)')}")
        self._each(self._center, lanes)
        variance = f"{across(code, 'square', total, lanes, '{a} + {b}')} / T.float32({channels})"
        epsilon = f"T.float32({self._shape.epsilon!r})"
        if self._shape.from_bytes:
            code.let("factor", f"s_in / T.sqrt({variance} * (s_in * s_in) + {epsilon})")
        else:
            code.let("factor", f"T.float32(1) / T.sqrt({variance} + {epsilon})")
        # Narrowing two vectors at once: storing the bytes of a single one takes far longer on some cores.
        self._each(self._store, 2 * lanes if channels >= 2 * lanes else lanes)

    def _each(self, body: _Body, lanes: int) -> None:
        """`body(start, lanes, seen)` for all vectors: first channel, and how many lanes the one before it had too."""
        full, rest = divmod(self._shape.channels, lanes)
        with self._code.block(f"for v in range({full}):"):
            body(f"v * {lanes}", lanes, 0)
        if rest:
            body(str(self._shape.channels - lanes), lanes, lanes - rest)

    def _load(self, start: str, lanes: int, seen: int) -> None:
        value = vec("x", f"r * {self._shape.channels} + {start}", lanes)
        if self._shape.from_bytes:
            value = f'T.Cast("{lane_type("float32", lanes)}", T.Cast("{lane_type("int32", lanes)}", {value}))'
        self._code.line(f"{vec('row', start, lanes)} = {value}")
        self._add(vec("row", start, lanes), seen)

    def _center(self, start: str, lanes: int, seen: int) -> None:
        self._code.let(f"off_{seen}", f"{vec('row', start, lanes)} - {splat('mean', lanes)}")
        self._add(f"off_{seen} * off_{seen}", seen)

    def _store(self, start: str, lanes: int, seen: int) -> None:
        gamma, beta = ("gamma_q", "beta_q") if self._shape.to_bytes else ("gamma", "beta")
        y = f"({vec('row', start, lanes)} - {splat('mean', lanes)}) * {splat('factor', lanes)}"
        y = f"{y} * {vec(gamma, start, lanes)} + {vec(beta, start, lanes)}"
        if self._shape.to_bytes:
            y = rounded(y, lanes)
        self._code.line(f"{vec('out', f'r * {self._shape.channels} + {start}', lanes)} = {y}")

    def _add(self, value: str, seen: int) -> None:
        lanes, total = self._lanes, vec("total", "0", self._lanes)
        if seen:
            number = f"{splat(str(seen), lanes)} <= T.Ramp(0, 1, {lanes})"
            value = f"T.Select({number}, {value}, {splat('T.float32(0)', lanes)})"
        self._code.line(f"{total} = {total} + {value}")

    def _splat(self, value: str) -> str:
        return splat(value, self._lanes)
