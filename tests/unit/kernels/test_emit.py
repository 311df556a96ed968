"""What kernels are written with: arithmetic as NumPy's, statements, and code that is the same in every process."""

from __future__ import annotations

import operator
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpq_testing.emitted import compiled
from tvm_mpq.kernels import Request, default_kernel
from tvm_mpq.kernels.emit import (
    Function,
    Parameter,
    Register,
    Value,
    accumulators,
    alloc,
    both,
    branch,
    broadcast4,
    clamp,
    constant,
    equal,
    floor,
    fma,
    function,
    if_then_else,
    let,
    loop,
    maximum,
    minimum,
    popcount,
    ramp,
    repeated_byte,
    select,
    shuffle,
    sqrt,
    type_name,
    unrolled,
    when,
    within,
)
from tvm_mpq.kernels.emit.code import Pointer
from tvm_mpq.schema import W8A8, Conv2dWorkload
from tvm_mpq.targets import features, resolve
from tvm_mpq.tuning.compile.kernel_store import structure

LANES = 8
FAST = settings(max_examples=40, deadline=None)


# Each is written once for Values and NumPy's arrays alike: operators, and numbers on either side of them.
EVERYWHERE = (operator.add, operator.sub, operator.mul, lambda a, b: 3 - a, lambda a, b: 5 + a * 2 + b)
WHOLE = (
    *(operator.and_, operator.or_, operator.xor, lambda a, b: a // maximum_of(b, 1), lambda a, b: a % maximum_of(b, 1)),
    *(lambda a, b: a << 2, lambda a, b: a >> 3),
)
REAL = (lambda a, b: a / maximum_of(b, 1), lambda a, b: 1.5 / maximum_of(a, 1), lambda a, b: 0.5 - a * 2.0)


def maximum_of(a: Any, b: Any) -> Any:
    return maximum(a, b) if isinstance(a, Value) else np.maximum(a, b)


def either(condition: Any, a: Any, b: Any) -> Any:
    return select(condition, a, b) if isinstance(a, Value) else np.where(condition, a, b)


COMPARED = (
    *(lambda a, b: either(a < b, a, b), lambda a, b: either(a <= b, b, a)),
    *(lambda a, b: either(a > b, a, b), lambda a, b: either(a >= 7, b, a), maximum_of),
)
OPERATIONS = {
    "int32": (*EVERYWHERE, *WHOLE, *COMPARED),
    "uint8": (*EVERYWHERE[:3], operator.and_, operator.or_, operator.xor, *COMPARED),
    "float32": (*EVERYWHERE, *REAL, *COMPARED),
}
NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "int32": st.integers(-30_000, 30_000),  # no product leaves int32, which would have no meaning
    "uint8": st.integers(0, 255),
    "float32": st.integers(-(2**12), 2**12).map(lambda n: n / 64),  # products are exact, fused or not
}


@pytest.mark.parametrize("lanes", [1, LANES])
@pytest.mark.parametrize("dtype", OPERATIONS)
def test_operators_are_those_of_numpy(dtype: str, lanes: int) -> None:
    operations = OPERATIONS[dtype]

    def write(f: Function) -> None:
        a, b, out = f.flat("a"), f.flat("b"), f.flat("out")
        with loop(LANES // lanes) as i:
            for k, operation in enumerate(operations):
                out.store(i * lanes + k * LANES, operation(a.load(i * lanes, lanes), b.load(i * lanes, lanes)))

    shape = (len(operations), LANES)
    run = compiled(
        [Parameter("a", (LANES,), dtype), Parameter("b", (LANES,), dtype), Parameter("out", shape, dtype)], write
    )
    arrays = st.lists(NUMBERS[dtype], min_size=LANES, max_size=LANES).map(lambda x: np.array(x, dtype))

    @FAST
    @given(arrays, arrays)
    def check(a: np.ndarray, b: np.ndarray) -> None:
        with np.errstate(all="ignore"):
            expected = np.stack([operation(a, b) for operation in operations])
        assert expected.dtype == dtype
        np.testing.assert_array_equal(run(a, b), expected)

    check()


def test_functions_of_one_value() -> None:
    x = np.array([-2.5, -0.5, 0.0, 0.5, 1.5, 2.25, 9.0, 300.0], np.float32)

    def write(f: Function) -> None:
        v, out = let(f.flat("x").load(0, LANES), "v"), f.flat("out")
        squares = (floor(v), sqrt(v * v), clamp(v, -1.0, 2.0), minimum(v, 1.0), v.cast("int32").cast("float32"))
        same = v.reinterpret("int32", LANES).reinterpret("float32", LANES)
        moved = (v.lanes_of(range(7, -1, -1)), shuffle([v, v], [15, 0, 8, 7, 1, 9, 2, 10]))
        scalar = f.flat("x")[4]
        spread = (scalar.broadcast(LANES), v * scalar, ramp(3, LANES, 2).cast("float32"))
        for k, value in enumerate((*squares, same, *moved, *spread)):
            out.store(k * LANES, value)

    expected = [np.floor(x), abs(x), np.clip(x, -1, 2), np.minimum(x, 1), np.trunc(x), x, x[::-1]]
    expected += [x[[7, 0, 0, 7, 1, 1, 2, 2]], np.full(LANES, x[4]), x * x[4], np.arange(3, 19, 2)]
    run = compiled([Parameter("x", (LANES,), "float32"), Parameter("out", (len(expected), LANES), "float32")], write)
    np.testing.assert_array_equal(run(x), np.stack(expected).astype(np.float32))


def test_fma_rounds_once() -> None:
    """(1 + e)^2 - (1 + 2e) = e^2, which a rounded product has lost."""
    e = 2.0**-13

    def write(f: Function) -> None:
        a, c = f.flat("x").load(0, 4), f.flat("x").load(4, 4)
        f.flat("out").store(0, fma(a, a, c))

    run = compiled([Parameter("x", (8,), "float32"), Parameter("out", (4,), "float32")], write)
    assert (run(np.float32([1 + e] * 4 + [-(1 + 2 * e)] * 4)) == np.float32(e * e)).all()


def test_bits_and_bytes() -> None:
    words = np.array([0, -1, 0x01020304, -0x80000000], np.int32)

    def write(f: Function) -> None:
        x, out = f.flat("x"), f.flat("out")
        out.store(0, popcount(x.load(0, 4)))
        out.store(4, repeated_byte(0xF0, 4) & x.load(0, 4))
        four = broadcast4(Pointer(x_bytes(f), 4), 2, 4)  # bytes 8 to 11, twice
        out.store(8, four.reinterpret("int32", 2))
        out.store(10, x.load(0, 2, stride=3))  # words 0 and 3

    def x_bytes(f: Function) -> Any:
        copied = alloc(16, "uint8")
        copied.store(0, f.flat("x").load(0, 4).reinterpret("uint8", 16))
        return copied

    run = compiled([Parameter("x", (4,), "int32"), Parameter("out", (12,), "int32")], write)
    counted = [bin(int(w) & 0xFFFFFFFF).count("1") for w in words]
    masked = words & np.uint32(0xF0F0F0F0).astype(np.int32)
    np.testing.assert_array_equal(run(words), [*counted, *masked, words[2], words[2], words[0], words[3]])


def test_strided_stores_leave_what_lies_between() -> None:
    def write(f: Function) -> None:
        f.flat("out").store(1, f.flat("x").load(0, 4), stride=3)

    run = compiled([Parameter("x", (4,), "int32"), Parameter("out", (12,), "int32")], write)
    expected = np.full(12, 77)
    expected[1::3] = [5, 6, 7, 8]
    np.testing.assert_array_equal(run(np.array([5, 6, 7, 8], np.int32)), expected)


def test_conditions() -> None:
    """Of each number of -3..8: within, both, equal, if_then_else, and statements under conditions."""

    def write(f: Function) -> None:
        x, out = f.flat("x"), f.flat("out")
        with loop(12) as i:
            v = let(x[i], "v")
            out[i] = if_then_else(within(0, v, 5), 1, v)
            out[i + 12] = select(both(v < 4, v > 1), constant(1, "int32"), constant(0, "int32"))
            with when(equal(v, 3)):
                out[i + 24] = -3
            with branch(v >= 2) as (yes, no):
                with yes:
                    out[i + 36] = 10
                with no:
                    out[i + 36] = v

    x = np.arange(-3, 9, dtype=np.int32)
    run = compiled([Parameter("x", (12,), "int32"), Parameter("out", (4, 12), "int32")], write)
    expected = [
        np.where((x >= 0) & (x < 5), 1, x),
        (x < 4) & (x > 1),
        np.where(x == 3, -3, 77),
        np.where(x >= 2, 10, x),
    ]
    np.testing.assert_array_equal(run(x), np.stack(expected))


def test_registers_are_assigned_again_and_again() -> None:
    def write(f: Function) -> None:
        x, out = f.flat("x"), f.flat("out")
        sums = accumulators(2, [4, 8], "int32")
        assert [[(r.lanes, r.dtype) for r in row] for row in sums] == [[(4, "int32"), (8, "int32")]] * 2
        for r, row in enumerate(sums):
            for register in row:
                register.value = constant(r, "int32", register.lanes)
        with loop(3) as i, unrolled(2) as j:
            for row in sums:
                for register in row:
                    register.value = register.value + x.load(i * 16 + j * 8, register.lanes)
        for r, (small, large) in enumerate(sums):
            out.store(r * 12, small.value)
            out.store(r * 12 + 4, large.value)

    x = np.arange(48, dtype=np.int32) ** 2
    run = compiled([Parameter("x", (48,), "int32"), Parameter("out", (2, 12), "int32")], write)
    total = x.reshape(6, 8).sum(axis=0)
    np.testing.assert_array_equal(run(x), [[*total[:4] + r, *total + r] for r in range(2)])


def test_a_value_has_no_truth() -> None:
    x = constant(1, "int32")
    for ask in (lambda: bool(x), lambda: not x, lambda: 0 <= x < 3, lambda: 1 if x < 2 else 0, lambda: max(x, x + 1)):
        with pytest.raises(TypeError, match="no truth while the code is written"):
            ask()


def test_what_has_no_meaning_is_refused() -> None:
    whole, real, wide = constant(1, "int32"), constant(1, "float32"), constant(1, "int32", 4)
    with pytest.raises(TypeError, match=r"of one type \(got float32 and int32\): cast"):
        whole + real
    with pytest.raises(TypeError, match=r"of one type \(got int32 and uint8\)"):
        minimum(constant(1, "uint8"), whole)
    for mixed in (lambda: whole * 1.5, lambda: wide + 0.5, lambda: constant(2.5, "uint8")):
        with pytest.raises(TypeError, match="must be whole"):
            mixed()
    with pytest.raises(AssertionError, match="compute them in Python"):
        maximum(1, 2)
    with function([Parameter("x", (4,), "int32")]) as f:
        with pytest.raises(AssertionError, match="still being written"):
            _ = f.func
        with pytest.raises(TypeError, match="a buffer of int32 takes no float32: cast it"):
            f.flat("x").store(0, real)
        with pytest.raises(KeyError, match="y"):
            f.flat("y")
        with pytest.raises(TypeError, match="takes no float32"):
            Register(4, "int32").value = constant(0, "float32", 4)


def test_types_have_the_names_of_tvm() -> None:
    for dtype, lanes in (("int32", 16), ("uint8", 1), ("float32", 4), ("bfloat16", 32)):
        value = constant(1, dtype, lanes)
        assert (value.dtype, value.lanes) == (dtype, lanes) and str(value.expr.ty) == type_name(dtype, lanes)


HASHED = """
import sys
sys.modules["torch"] = None  # TVM would import it, for seconds
from tvm_mpq.kernels import Request, default_kernel
from tvm_mpq.schema import W8A8, Conv2dWorkload
from tvm_mpq.targets import features, resolve
from tvm_mpq.tuning.compile.kernel_store import structure
work = Conv2dWorkload(1, 9, 9, 19, 33, (3, 3), padding=(1, 1, 1, 1), residual=True, activation="hard_swish")
print(structure(default_kernel(Request(work, W8A8, 8, features(resolve("znver4")), 2)).build()))
"""


def test_a_kernel_is_the_same_code_in_every_process() -> None:
    """Names of libraries and latency records are hashes of code, which one process writes and another reads."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"  # another than here, where it is drawn as a rule
    there = subprocess.run(
        [sys.executable, "-c", HASHED],
        env={**os.environ, "PYTHONHASHSEED": seed},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    work = Conv2dWorkload(1, 9, 9, 19, 33, (3, 3), padding=(1, 1, 1, 1), residual=True, activation="hard_swish")
    request = Request(work, W8A8, 8, features(resolve("znver4")), 2)
    assert there == structure(default_kernel(request).build())
    other = Request(replace(work, activation="tanh", residual=False), W8A8, 8, features(resolve("znver4")), 2)
    assert structure(default_kernel(other).build()) != there
