"""Statements of generated code: functions, buffers, bindings and loops.

A kernel is written inside `with function(...) as f:`; a statement goes into the loop that is open, of which TVM's
builder keeps account. Variables of the generated code are Python variables of the code that writes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tvm.ir import StringImm
from tvm.s_tir import SBlock, SBlockRealize
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import AttrStmt, IntImm, PrimFunc
from tvm.tirx.script import builder as T

from tvm_mpq.kernels.emit.value import Index, Operand, Value, constant, ramp, raw

_ATTRS = {"global_symbol": "main", "tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8}
"""op_pattern 8: Relax's fusion leaves the function alone."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: name, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Buffer:
    """A flat buffer of `size` elements."""

    __slots__ = ("dtype", "size", "var")

    def __init__(self, var: Any, size: int, dtype: str) -> None:
        self.var, self.size, self.dtype = var, size, dtype

    def __getitem__(self, index: Index) -> Value:
        """One element."""
        return Value(self.var[raw(index)], self.dtype)

    def __setitem__(self, index: Index, value: Operand) -> None:
        self.store(index, value if isinstance(value, Value) else constant(value, self.dtype))

    def load(self, start: Index, lanes: int, stride: int = 1) -> Value:
        """`lanes` elements from `start` on, each `stride` behind the one before it."""
        return Value(self.var[_at(start, lanes, stride)], self.dtype, lanes)

    def store(self, start: Index, value: Value, stride: int = 1) -> None:
        """Write the lanes of `value` from `start` on, each `stride` behind the one before it.

        Raises TypeError where `value` has another dtype.
        """
        if value.dtype != self.dtype:
            raise TypeError(f"a buffer of {self.dtype} takes no {value.dtype}: cast it")
        T.buffer_store(self.var, value.expr, [_at(start, value.lanes, stride)])

    def prefetch(self, index: Index) -> None:
        """Ask for the cache line of an element that will be read soon; the address may lie out of bounds."""
        address = T.address_of(self.var[raw(index)])
        T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", address, 0, 3, 1))


@dataclass(frozen=True, eq=False)
class Pointer:
    """A place in a buffer, from which code reads without knowing what lies around."""

    buffer: Buffer
    start: Index

    def load(self, lanes: int, offset: int = 0) -> Value:
        """`lanes` elements, `offset` elements further."""
        return self.buffer.load(self.start + offset if offset else self.start, lanes)

    @property
    def address(self) -> Value:
        """Where the element is, for LLVM code that a kernel imports."""
        return Value(T.address_of(self.buffer.var[raw(self.start)]), "handle")

    def at(self, offset: Index) -> Pointer:
        """The place `offset` elements further."""
        return Pointer(self.buffer, self.start + offset)

    def bind(self, name: str = "") -> Pointer:
        """The same place, computed here, once."""
        return Pointer(self.buffer, let(self.start, name) if isinstance(self.start, Value) else self.start)


def broadcast4(x: Pointer, lanes: int, offset: int = 0) -> Value:
    """The four bytes that lie `offset` bytes behind `x`, repeated: uint8 x 4 * lanes."""
    return x.load(4, offset).reinterpret("int32", 1).broadcast(lanes).reinterpret("uint8", 4 * lanes)


class Register:
    """One vector that is assigned again and again, such as an accumulator.

    In TIR it is a buffer of that size: small and of default scope, so that LLVM keeps it in a register.
    """

    __slots__ = ("_buffer", "lanes")

    def __init__(self, lanes: int, dtype: str) -> None:
        self._buffer, self.lanes = alloc(lanes, dtype), lanes

    @property
    def dtype(self) -> str:
        """Of each lane."""
        return self._buffer.dtype

    @property
    def value(self) -> Value:
        """What was assigned last."""
        return self._buffer.load(0, self.lanes)

    @value.setter
    def value(self, new: Value) -> None:
        self._buffer.store(0, new)


@dataclass
class Function:
    """A kernel while it is written, and afterwards its PrimFunc."""

    params: Sequence[Parameter]
    _vars: dict[str, Any] = field(default_factory=dict)
    _built: PrimFunc | None = None

    def flat(self, name: str) -> Buffer:
        """The parameter `name` as a flat buffer of its elements. Raises KeyError where there is none of that name."""
        array = {p.name: p for p in self.params}[name]
        size = math.prod(array.shape)
        if len(array.shape) == 1:
            return Buffer(self._vars[name], size, array.dtype)
        return Buffer(T.decl_buffer((size,), array.dtype, data=self._vars[name].data), size, array.dtype)

    @property
    def func(self) -> PrimFunc:
        """The finished function, its body in a root block as the passes of Relax expect of any PrimFunc."""
        assert self._built is not None, "the function is still being written"
        return self._built


@contextmanager
def function(params: Sequence[Parameter], *, llvm: str | None = None) -> Iterator[Function]:
    """Write one function over `params`, in this order, with the attributes that every kernel has.

    llvm: LLVM code that defines what the kernel calls by name (`external`).
    """
    result = Function(params)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr(_ATTRS)
            for p in params:
                result._vars[p.name] = T.arg(p.name, T.buffer(p.shape, p.dtype))
            yield result
    func = builder.get()
    if llvm is not None:
        func = func.with_body(AttrStmt(IntImm("int32", 0), "pragma_import_llvm", StringImm(llvm), func.body))
    if not isinstance(func.body, SBlockRealize):
        func = func.with_body(SBlockRealize([], True, SBlock([], [], [], "root", func.body)))
    result._built = func


def alloc(size: int, dtype: str) -> Buffer:
    """A scratch buffer that lives in the open loop."""
    return Buffer(T.alloc_buffer((size,), dtype), size, dtype)


def let(value: Value, name: str = "") -> Value:
    """Compute `value` here, once; the result is its name. `name` is for people who read the generated code."""
    var = T.Bind(value.expr)
    if name:
        IRBuilder.name(name, var)
    return Value(var, value.dtype, value.lanes)


@contextmanager
def loop(start: Index, stop: Index | None = None) -> Iterator[Value]:
    """For each index in range(start), or range(start, stop)."""
    low, high = (0, start) if stop is None else (start, stop)
    with T.serial(raw(low), raw(high)) as i:
        yield Value(i, "int32")


@contextmanager
def parallel(extent: int) -> Iterator[Value]:
    """For each index below `extent`, each in a thread of its own where there are as many."""
    with T.parallel(extent) as i:
        yield Value(i, "int32")


@contextmanager
def unrolled(extent: int) -> Iterator[Value]:
    """For each index below `extent`, written out by the compiler."""
    with T.unroll(extent) as i:
        yield Value(i, "int32")


@contextmanager
def when(condition: Value) -> Iterator[None]:
    """Only where the condition holds."""
    with T.If(condition.expr), T.Then():
        yield


@contextmanager
def branch(condition: Value) -> Iterator[tuple[Any, Any]]:
    """One of two ways: `with branch(c) as (yes, no):`, and inside it `with yes: …` and `with no: …`."""
    with T.If(condition.expr):
        yield T.Then(), T.Else()


def _at(start: Index, lanes: int, stride: int = 1) -> Any:
    return raw(start) if lanes == 1 else ramp(start, lanes, stride).expr
