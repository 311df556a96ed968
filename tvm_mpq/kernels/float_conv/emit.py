"""Text of TVMScript functions: indentation, float buffers with flat aliases, vector reads and writes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tvm
from tvm.tirx import PrimFunc

_HEADER = "# from tvm.script import tirx as T\n@T.prim_func(s_tir=True)\n"


class Emitter:
    """Collects the lines of one function. `with emitter.block("for i in range(4):")` indents."""

    def __init__(self, name: str, buffers: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        self._depth = 1
        arguments = ", ".join(f'{n}_nd: T.Buffer({_tuple(s)}, "float32")' for n, s in buffers)
        attrs = f'{{"global_symbol": "{name}", "tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8}}'
        self._lines = [f"def {name}({arguments}):", f"    T.func_attr({attrs})"]
        for n, s in buffers:
            self.line(f'{n} = T.decl_buffer(({math.prod(s)},), "float32", data={n}_nd.data)')

    def line(self, text: str) -> None:
        self._lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.line(head)
        self._depth += 1
        yield
        self._depth -= 1

    def vector_buffer(self, name: str, lanes: int) -> None:
        """A buffer of one vector; being small and of default scope it ends up in a register."""
        self.line(f'{name} = T.alloc_buffer(({lanes},), "float32")')

    def fill_zero(self, buffer: str, start: str, count: int, lanes: int) -> None:
        self._span(buffer, start, count, lanes, None)

    def copy(self, buffer: str, start: str, source: str, source_start: str, count: int, lanes: int) -> None:
        """`count` neighbouring elements; the last vector overlaps the one before it instead of being masked."""
        self._span(buffer, start, count, lanes, (source, source_start))

    def _span(self, buffer: str, start: str, count: int, lanes: int, source: tuple[str, str] | None) -> None:
        if count == 0:
            return
        lanes = min(lanes, 1 << (count.bit_length() - 1))
        vectors = -(-count // lanes)
        offset = f"v * {lanes}" if count % lanes == 0 else f"T.min(v * {lanes}, {count - lanes})"
        value = vec(source[0], f"{source[1]} + {offset}", lanes) if source else splat("T.float32(0)", lanes)
        with self.block(f"for v in range({vectors}):"):
            self.line(f"{vec(buffer, f'{start} + {offset}', lanes)} = {value}")

    def build(self) -> PrimFunc:
        return tvm.script.from_source(_HEADER + "\n".join(self._lines) + "\n")

    @property
    def source(self) -> str:
        return _HEADER + "\n".join(self._lines) + "\n"


def vec(buffer: str, index: str, lanes: int) -> str:
    """Text of `lanes` neighbouring elements of a flat buffer."""
    return f"{buffer}[{index}]" if lanes == 1 else f"{buffer}[T.Ramp({index}, 1, {lanes})]"


def splat(value: str, lanes: int) -> str:
    return value if lanes == 1 else f"T.Broadcast({value}, {lanes})"


def _tuple(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
