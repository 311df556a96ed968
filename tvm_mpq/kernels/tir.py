"""Small helpers to write TVMScript: an indenting line collector, and the way from text to a PrimFunc."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import tvm
from tvm.ir import StringImm
from tvm.s_tir import SBlock, SBlockRealize
from tvm.tirx import AttrStmt, IntImm, PrimFunc

Params = list[tuple[str, tuple[int, ...], str]]
"""Name, shape and dtype of each parameter."""

_ATTRS = '"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8'


@contextmanager
def _no_collection() -> Iterator[None]:
    """The parser's millions of small objects make the garbage collector take a fifth of its time, for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class Script:
    """A kernel as text. Writing it takes a millisecond and parsing it a third of a second, so whoever wants only to
    know which code a kernel is, or how large its constants are, asks the text.

    llvm: LLVM code with the functions that the text calls by name.
    """

    text: str
    buffers: tuple[tuple[tuple[int, ...], str], ...]  # shape and dtype, in the order of the parameters
    llvm: str | None = None

    def parse(self) -> PrimFunc:
        """The function, its body in a root block as the passes of Relax expect of any PrimFunc."""
        with _no_collection():
            func = tvm.script.from_source(self.text)
        if self.llvm is not None:
            func = func.with_body(AttrStmt(IntImm("int32", 0), "pragma_import_llvm", StringImm(self.llvm), func.body))
        if isinstance(func.body, SBlockRealize):
            return func
        return func.with_body(SBlockRealize([], True, SBlock([], [], [], "root", func.body)))


class Code:
    """Lines of a TVMScript function, with the current indentation."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 1

    def line(self, text: str) -> None:
        self._lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """`head` must end with a colon; the lines written inside are its body."""
        self.line(head)
        self._depth += 1
        yield
        self._depth -= 1

    def let(self, name: str, value: str) -> str:
        """Bind `value` to an immutable `name` and return the name."""
        self.line(f"{name}: T.let = {value}")
        return name

    def script(self, params: Params, symbol: str = "main", *, llvm: str | None = None) -> Script:
        """The function over parameters (name, shape, dtype) with the attributes every kernel carries."""
        signature = ", ".join(f'{name}: T.Buffer({shape!r}, "{dtype}")' for name, shape, dtype in params)
        text = "\n".join(
            [
                "# from tvm.script import tirx as T",
                "@T.prim_func(s_tir=True)",
                f"def {symbol}({signature}):",
                f'    T.func_attr({{{_ATTRS}, "global_symbol": "{symbol}"}})',
                *self._lines,
            ]
        )
        return Script(text, tuple((tuple(shape), dtype) for _, shape, dtype in params), llvm)


class Task(ExitStack):
    """The body of one thread's task, or plain code when there is one thread."""

    def __init__(self, code: Code, threads: int) -> None:
        super().__init__()
        self.code, self.threads = code, threads

    def __enter__(self) -> Task:
        super().__enter__()
        if self.threads > 1:
            self.enter_context(self.code.block(f"for task in T.parallel({self.threads}):"))
        return self

    def part(self, count: int) -> tuple[str, str]:
        """Begin and end of this task's share of `count`."""
        if self.threads == 1:
            return "0", str(count)
        return f"task * {count} // {self.threads}", f"(task + 1) * {count} // {self.threads}"

    def offset(self, size: int) -> str:
        return f"task * {size}" if self.threads > 1 else "0"


def intrin(dtype: str, name: str, *args: str) -> str:
    """A call of the LLVM intrinsic `name` that returns `dtype`."""
    return f'T.call_llvm_pure_intrin("{dtype}", T.llvm_lookup_intrinsic_id("{name}"), {", ".join(args)})'


def ramp(base: str | int, lanes: int) -> str:
    """The index of `lanes` consecutive elements from `base`."""
    return f"T.Ramp({base}, 1, {lanes})" if lanes > 1 else str(base)
