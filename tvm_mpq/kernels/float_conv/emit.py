"""Text of float kernels: flat aliases of every buffer, accumulators, runs of vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from tvm_mpq.kernels.tir import Code, Script, ramp

Convert = Callable[[str, int], str]
"""(vector's text, lanes) -> text of the vector in another type."""


class Emitter(Code):
    """Lines of one function over float32 `buffers`, each of which is read and written flat by its name.

    dtypes: of the buffers that are not float32, by name.
    """

    def __init__(
        self, name: str, buffers: Sequence[tuple[str, tuple[int, ...]]], dtypes: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self._name = name
        self._params = []
        for buffer, shape in buffers:
            dtype = (dtypes or {}).get(buffer, "float32")
            self._params.append((f"{buffer}_nd", shape, dtype))
            self.line(f'{buffer} = T.decl_buffer(({math.prod(shape)},), "{dtype}", data={buffer}_nd.data)')

    def vector_buffer(self, name: str, lanes: int) -> None:
        """A buffer of one vector; being small and of default scope it ends up in a register."""
        self.line(f'{name} = T.alloc_buffer(({lanes},), "float32")')

    def fill_zero(self, buffer: str, start: str, count: int, lanes: int, dtype: str = "float32") -> None:
        self._span(buffer, start, count, lanes, lambda _, width: splat(f"T.{dtype}(0)", width))

    def copy(
        self, to: str, to_start: str, source: str, start: str, count: int, lanes: int, convert: Convert | None = None
    ) -> None:
        """`count` neighbours, converted if asked; the last vector overlaps the one before it, nothing is masked."""

        def value(offset: str, width: int) -> str:
            taken = vec(source, f"{start} + {offset}", width)
            return convert(taken, width) if convert else taken

        self._span(to, to_start, count, lanes, value)

    def _span(self, buffer: str, start: str, count: int, lanes: int, value: Convert) -> None:
        if count == 0:
            return
        lanes = min(lanes, 1 << (count.bit_length() - 1))
        vectors = -(-count // lanes)
        offset = f"v * {lanes}" if count % lanes == 0 else f"T.min(v * {lanes}, {count - lanes})"
        with self.block(f"for v in range({vectors}):"):
            self.line(f"{vec(buffer, f'{start} + {offset}', lanes)} = {value(offset, lanes)}")

    def build(self, llvm: str | None = None) -> Script:
        return self.script(self._params, self._name, llvm=llvm)


def vec(buffer: str, index: str, lanes: int) -> str:
    """Text of `lanes` neighbouring elements of a flat buffer."""
    return f"{buffer}[{ramp(index, lanes)}]"


def splat(value: str, lanes: int) -> str:
    return value if lanes == 1 else f"T.Broadcast({value}, {lanes})"
