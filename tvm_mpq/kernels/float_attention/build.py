"""Source of the attention kernel.

Per head, k is first packed into panels of as many keys as a vector has lanes, so that a block of scores is a broadcast
of q times vectors of keys, and v into dense rows: both are then read from the second-level cache in order. Then, for a
few queries at a time: their scores against all keys into a buffer that stays in the first-level cache, the exponentials
and their sums in place, the product with v, and a division by the sums on the way out. Nothing of size queries x keys
is ever stored. Tails of queries and features overlap their neighbours.
"""

from __future__ import annotations

from tvm_mpq.kernels.float_attention.desc import AttentionShape
from tvm_mpq.kernels.float_attention.vectors import across, tile_buffers, tile_product, transpose_block
from tvm_mpq.kernels.float_conv.activations import ActivationCode
from tvm_mpq.kernels.float_conv.emit import Emitter, splat, vec
from tvm_mpq.kernels.machines.float32 import native_lanes
from tvm_mpq.kernels.tir import Script

_TASKS_PER_THREAD = 4
_PARALLEL_FROM = 500_000  # multiply-accumulates below which starting threads costs more than it saves
_VECTORS = 2  # of a register tile; wider tiles of fewer rows made LLVM spill, and read keys and values more often
_TILE_OVERHEAD = 4  # in FMA slots per step of the reduction: the loads that do not hide
_MASKED = "T.float32(-3.0e38)"  # the score of a key that does not exist


def build_attention(shape: AttentionShape, features: frozenset[str], threads: int = 1) -> Script:
    """Kernel of `(source_0, ..., out)`; see AttentionShape."""
    return _Attention(shape, features, threads).build()


class _Attention:
    def __init__(self, shape: AttentionShape, features: frozenset[str], threads: int) -> None:
        self.s, self.threads = shape, threads if shape.macs >= _PARALLEL_FROM else 1
        lanes = native_lanes(features)
        while lanes > 4 and lanes > shape.keys:
            lanes //= 2
        self.lanes = lanes
        self.copied = shape.v.strides[2] != shape.value_features
        self.out_lanes = min(native_lanes(features), 1 << (shape.value_features.bit_length() - 1))
        many_registers = "avx512f" in features or "neon" in features
        self.rows = _tile_rows(shape.queries, 12 if many_registers else 6)
        self.padded = -(-shape.keys // lanes) * lanes
        self.tiles = -(-shape.queries // self.rows)
        out = (shape.batch, shape.queries, shape.heads, shape.value_features)
        buffers = [(f"x{i}", dims) for i, dims in enumerate(shape.sources)]
        self.e = Emitter("f32_attention", [*buffers, ("out", out)])

    def build(self) -> Script:
        s, e = self.s, self.e
        heads = s.batch * s.heads
        sizes = s.features * self.padded, s.keys * s.value_features
        held = 1 if self.threads == 1 else heads
        for name, size in zip(("keys", "values")[: 1 + self.copied], sizes, strict=False):
            e.line(f'{name} = T.alloc_buffer(({held * size},), "float32")')
        if self.threads == 1:
            with e.block(f"for task in range({heads}):"):
                self._head("task")
                self._pack("0", "0")
                self._queries(0, f"{self.tiles}", "0", "0")
            return e.build()
        with e.block(f"for task in T.parallel({heads}):"):
            self._head("task")
            self._pack(*(f"task * {size}" for size in sizes))
        parts = max(1, min(self.tiles, -(-self.threads * _TASKS_PER_THREAD // heads)))
        with e.block(f"for task in T.parallel({heads * parts}):"):
            self._head(f"task // {parts}")
            e.line(f"first: T.let = task % {parts} * {self.tiles} // {parts}")
            count = f"(task % {parts} + 1) * {self.tiles} // {parts} - first"
            self._queries("first", count, *(f"task // {parts} * {size}" for size in sizes))
        return e.build()

    def _head(self, number: str) -> None:
        self.e.line(f"b: T.let = {number} // {self.s.heads}")
        self.e.line(f"h: T.let = {number} % {self.s.heads}")

    def _pack(self, keys: str, values: str) -> None:
        """Panels of `lanes` keys, features one behind the other; dense rows of v. No key: a copy of the last one."""
        s, e, lanes = self.s, self.e, self.lanes
        source, last = f"x{s.k.source}", s.keys - 1
        with e.block(f"for jp in range({self.padded // lanes}):"):
            panel = f"{keys} + jp * {s.features * lanes}"
            if s.k.strides[3] == 1 and s.features >= lanes:
                with e.block(f"for dt in range({-(-s.features // lanes)}):"):
                    e.line(f"d0: T.let = {_overlapping('dt', lanes, s.features)}")
                    rows = [s.k.index("b", "h", f"T.min(jp * {lanes} + {i}, {last})", "d0") for i in range(lanes)]
                    columns = [f"{panel} + (d0 + {i}) * {lanes}" for i in range(lanes)]
                    transpose_block(e, lanes, source, rows, "keys", columns)
            else:
                with e.block(f"for d, j in T.grid({s.features}, {lanes}):"):
                    place = s.k.index("b", "h", f"T.min(jp * {lanes} + j, {last})", "d")
                    e.line(f"keys[{panel} + d * {lanes} + j] = {source}[{place}]")
        if self.copied:
            with e.block(f"for j in range({s.keys}):"):
                row = s.v.index("b", "h", "j", "0")
                e.copy("values", f"{values} + j * {s.value_features}", f"x{s.v.source}", row, s.value_features, lanes)

    def _queries(self, first: int | str, count: str, keys: str, values: str) -> None:
        """`count` tiles of queries from tile `first` on."""
        s, e = self.s, self.e
        e.line(f'scores = T.alloc_buffer(({self.rows * self.padded},), "float32")')
        e.line(f'sums = T.alloc_buffer(({self.rows * s.value_features},), "float32")')
        e.line(f'share = T.alloc_buffer(({self.rows},), "float32")')
        activation = ActivationCode(e, "silu", self.lanes)
        activation.declare()
        tile_buffers(e, "s", self.rows, _VECTORS, self.lanes)
        e.vector_buffer("best", self.lanes)
        e.vector_buffer("total", self.lanes)
        with e.block(f"for tile in range({count}):"):
            e.line(f"i0: T.let = T.min(({first} + tile) * {self.rows}, {s.queries - self.rows})")
            self._scores(keys)
            with e.block(f"for r in range({self.rows}):"):
                self._exponentials(activation)
            self._values(values)

    def _scores(self, keys: str) -> None:
        s, e, lanes = self.s, self.e, self.lanes
        left = f"x{s.q.source}[{s.q.index('b', 'h', 'i0 + {r}', 'k')}]"
        done = 0
        for size, count in _blocks(self.padded // lanes, _VECTORS):
            with e.block(f"for jb in range({count}):"):
                e.line(f"j0: T.let = {done * lanes} + jb * {size * lanes}")
                right = f"keys|{keys} + j0 * {s.features} + k * {lanes} + {{n}} * {s.features * lanes}"
                tile_product(e, "s", self.rows, size, lanes, s.features, left, right)
                for r in range(self.rows):
                    for n in range(size):
                        place = vec("scores", f"{r * self.padded + n * lanes} + j0", lanes)
                        e.line(f"{place} = {vec(f's{r}_{n}', '0', lanes)}")
            done += size * count

    def _exponentials(self, activation: ActivationCode) -> None:
        """Row r of scores becomes exp(scale * (score - largest)), share[r] = 1 / their sum."""
        s, e, lanes = self.s, self.e, self.lanes
        vectors, valid = self.padded // lanes, s.keys % lanes
        e.line(f"row: T.let = r * {self.padded}")
        if valid:
            place = vec("scores", f"row + {self.padded - lanes}", lanes)
            number = f"T.Ramp(0, 1, {lanes})"
            e.line(f"{place} = T.Select({number} < {splat(str(valid), lanes)}, {place}, {splat(_MASKED, lanes)})")
        best, total, a = (vec(name, "0", lanes) for name in ("best", "total", "act_a"))
        e.line(f"{best} = {vec('scores', 'row', lanes)}")
        with e.block(f"for v in range({vectors}):"):
            e.line(f"{best} = T.max({best}, {vec('scores', f'row + v * {lanes}', lanes)})")
        largest = across(e, "m", best, lanes, "T.max({a}, {b})")
        e.line(f"{total} = {splat('T.float32(0)', lanes)}")
        with e.block(f"for v in range({vectors}):"):
            place = vec("scores", f"row + v * {lanes}", lanes)
            scale = splat(f"T.float32({s.scale!r})", lanes)
            activation.set("act_a", f"({place} - {splat(largest, lanes)}) * {scale}")
            activation.exp()
            e.line(f"{place} = {a}")
            e.line(f"{total} = {total} + {a}")
        e.line(f"share[r] = T.float32(1) / {across(e, 't', total, lanes, '{a} + {b}')}")

    def _values(self, values: str) -> None:
        s, e, lanes = self.s, self.e, self.out_lanes
        if lanes != self.lanes:
            tile_buffers(e, "o", self.rows, _VECTORS, lanes)
        prefix = "s" if lanes == self.lanes else "o"
        total, done = -(-s.value_features // lanes), 0
        e.line(f"row: T.let = ((b * {s.queries} + i0) * {s.heads} + h) * {s.value_features}")
        for size, count in _blocks(total, _VECTORS):
            with e.block(f"for cb in range({count}):"):
                for n in range(size):
                    e.line(f"c{n}: T.let = T.min(({done} + cb * {size} + {n}) * {lanes}, {s.value_features - lanes})")
                right = f"x{s.v.source}|{s.v.index('b', 'h', 'k', 'c{n}')}"
                if self.copied:
                    right = f"values|{values} + k * {s.value_features} + c{{n}}"
                left = f"scores[{{r}} * {self.padded} + k]"
                tile_product(e, prefix, self.rows, size, lanes, s.keys, left, right)
                for r in range(self.rows):
                    for n in range(size):
                        place = vec("sums", f"{r * s.value_features} + c{n}", lanes)
                        e.line(f"{place} = {vec(f'{prefix}{r}_{n}', '0', lanes)}")
            done += size * count
        # A loop of its own: in the loops above, the broadcast shares would take registers from the tiles.
        with e.block(f"for r in range({self.rows}):"):
            with e.block(f"for v in range({total}):"):
                e.line(f"c0: T.let = {_overlapping('v', lanes, s.value_features)}")
                value = vec("sums", f"r * {s.value_features} + c0", lanes)
                place = vec("out", f"row + r * {s.heads * s.value_features} + c0", lanes)
                e.line(f"{place} = {value} * {splat('share[r]', lanes)}")


def _tile_rows(queries: int, most: int) -> int:
    """Rows of a register tile: few tiles, few rows computed twice.

    >>> _tile_rows(197, 12), _tile_rows(5, 12)
    (11, 5)
    """
    if queries <= most:
        return queries
    return min(range(most, 1, -1), key=lambda rows: -(-queries // rows) * (_VECTORS * rows + _TILE_OVERHEAD))


def _overlapping(number: str, lanes: int, size: int) -> str:
    """Start of a vector of a row of `size`; the last one overlaps the one before it."""
    return f"{number} * {lanes}" if size % lanes == 0 else f"T.min({number} * {lanes}, {size - lanes})"


def _blocks(vectors: int, widest: int) -> list[tuple[int, int]]:
    """`vectors` cut into blocks as even as possible, none above `widest`: (size, how many).

    >>> _blocks(13, 4), _blocks(8, 4)
    ([(4, 1), (3, 3)], [(4, 2)])
    """
    count = -(-vectors // widest)
    size, more = divmod(vectors, count)
    return [(n, times) for n, times in ((size + 1, more), (size, count - more)) if times]
