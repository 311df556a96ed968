"""The instructions that the inner loop of each x86 kernel family repeats, as loops that touch nothing but registers.

Written with the emitters of the kernels themselves. One operand of every product passes through an empty piece of
assembly, which costs nothing and keeps LLVM from moving the product out of the loop. Building tables, widening
activations and the ends of tiles are no part of a mix. A look-up counts as the products that it replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
import tvm

from tvm_mpq.kernels import Kernel, Request
from tvm_mpq.kernels.emit import Parameter, Register, Value, external, fma, function, intrinsic, let, loop, popcount
from tvm_mpq.kernels.emit.quantize import look_up_128
from tvm_mpq.kernels.features import native_lanes, vector_registers
from tvm_mpq.kernels.machines import avxvnni
from tvm_mpq.kernels.machines.avx2 import bytes_depth, multiply_bytes, multiply_words, steps_limit
from tvm_mpq.kernels.machines.bfloat16_512 import Bfloat16Pairs
from tvm_mpq.kernels.machines.vbmi512 import GROUP, SubsetLookup
from tvm_mpq.kernels.machines.vnni512 import dot
from tvm_mpq.kernels.packing import nibble_indices, table_indices
from tvm_mpq.kernels.packing.linear import field_coding
from tvm_mpq.kernels.packing.tap_sums import tap_sums

TRIPS = Parameter("trips", (1,), "int32")

_FRESH = """
define <{n} x i32> @fresh(<{n} x i32> %x) alwaysinline {{
  %y = call <{n} x i32> asm sideeffect "", "={register},0"(<{n} x i32> %x)
  ret <{n} x i32> %y
}}
"""
_PERMUTE = "llvm.x86.avx512.permvar.qi.512"
_SHUFFLE = "llvm.x86.avx2.pshuf.b"

Fresh = Callable[[str], Value]
"""The changing operand as a vector of some dtype, another one for LLVM each time."""
Product = Callable[[Value, Fresh, Value], Value]
"""The next value of a sum, from the sum, the changing operand and the constant one."""


@dataclass(frozen=True)
class Mix:
    """`step` is one pass over all sums, from the changing and the constant operand. Sums are vectors of `lanes` int32.

    macs: multiply-adds of one pass; llvm: code of what the step calls by name.
    """

    name: str
    macs: float
    sums: int
    lanes: int
    step: Callable[[Sequence[Register], Fresh, Value], None]
    llvm: str = ""

    def build(self) -> tvm.tirx.PrimFunc:
        """A function of (operands int32[2 * lanes], out int32[sums * lanes], trips int32[1])."""
        n = self.lanes
        params = [Parameter("operands", (2 * n,), "int32"), Parameter("out", (n * self.sums,), "int32"), TRIPS]
        asm = _FRESH.format(n=n, register="v" if n == 16 else "x")
        with function(params, llvm=asm + self.llvm) as f:
            operands, out = f.flat("operands"), f.flat("out")
            changing, constant = Register(n, "int32"), let(operands.load(n, n), "constant")
            changing.value = operands.load(0, n)

            def fresh(dtype: str) -> Value:
                changing.value = external("fresh", "int32", n, changing.value)
                return as_type(let(changing.value), dtype)  # a load would be read where it is used

            sums = [Register(n, "int32") for _ in range(self.sums)]
            for i, total in enumerate(sums):
                total.value = out.load(i * n, n)
            with loop(f.flat("trips")[0]):
                self.step(sums, fresh, constant)
            for i, total in enumerate(sums):
                out.store(i * n, total.value)
        return f.func


def as_type(x: Value, dtype: str) -> Value:
    """The same bits as a vector of `dtype`."""
    return x.reinterpret(dtype, x.lanes * np.dtype(x.dtype).itemsize // np.dtype(dtype).itemsize)


def _each(name: str, macs: float, sums: int, lanes: int, product: Product, llvm: str = "") -> Mix:
    """Every sum becomes `product`, which adds `macs` to it."""

    def step(accs: Sequence[Register], fresh: Fresh, constant: Value) -> None:
        for total in accs:
            total.value = product(total.value, fresh, constant)

    return Mix(name, macs * sums, sums, lanes, step, llvm)


def fused(lanes: int, registers: int) -> Mix:
    """float32."""

    def product(total: Value, x: Fresh, w: Value) -> Value:
        return as_type(fma(x("float32"), as_type(w, "float32"), as_type(total, "float32")), "int32")

    return _each(f"vfmadd, {lanes} lanes", lanes, registers - 4, lanes, product)


def bfloat16() -> Mix:
    """Pairs of bfloat16."""

    def product(total: Value, x: Fresh, w: Value) -> Value:
        return as_type(external("mpq_bfloat16_pairs", "float32", 16, as_type(total, "float32"), x("int32"), w), "int32")

    return _each("vdpbf16ps", 32, 28, 16, product, Bfloat16Pairs.llvm or "")


def vnni() -> Mix:
    """Four products of bytes a lane."""
    return _each("vpdpbusd", 64, 28, 16, lambda total, x, w: dot(total, x("uint8"), as_type(w, "int8")))


def vnni_256() -> Mix:
    """The same with half the lanes and registers."""
    return _each("vpdpbusd ymm", 32, 12, 8, lambda total, x, w: avxvnni.dot(total, x("uint8"), as_type(w, "int8")))


def masked_vnni(lanes: int = 16) -> Mix:
    """The same with a field of packed weights, which a mask takes out of its byte."""
    multiply = dot if lanes == 16 else avxvnni.dot

    def product(total: Value, x: Fresh, w: Value) -> Value:
        return multiply(total, as_type(let(x("int32") & w), "uint8"), as_type(w, "int8"))

    name = "vpandd, vpdpbusd" if lanes == 16 else "vpand, vpdpbusd ymm"
    return _each(name, 4 * lanes, 28 if lanes == 16 else 12, lanes, product)


def tables(macs: int, looked_up: int) -> Mix:
    """Bytes from tables of 64, each vector worth `macs`, as many added before vpdpbusd adds up four a channel."""

    def product(total: Value, x: Fresh, w: Value) -> Value:
        found = [intrinsic(_PERMUTE, "uint8", 64, as_type(w, "uint8"), x("uint8")) for _ in range(looked_up)]
        return dot(total, reduce(add, found), as_type(w, "int8"))

    name = f"{looked_up} x vpermb + vpaddb, vpdpbusd" if looked_up > 1 else "vpermb, vpdpbusd"
    return _each(name, macs * looked_up, 24, 16, product)


def subsets(pieces: int) -> Mix:
    """Bytes from tables of 128, one for each piece of an activation."""

    def product(total: Value, x: Fresh, w: Value) -> Value:
        found = look_up_128(as_type(w, "uint8"), x("uint8"), as_type(total, "uint8"))
        return dot(total, found, as_type(w, "int8"))

    return _each("vpermi2b, vpdpbusd", 64 * GROUP / pieces, 24, 16, product)


def differing_bits(planes: int) -> Mix:
    """One bit by one bit."""
    product: Product = lambda total, x, w: total - popcount(x("int32") ^ w)  # noqa: E731 - beside its like
    return _each("vpxord, vpopcntd, vpsubd", 512 / planes, 24, 16, product)


def words() -> Mix:
    """Operands of 16 bits."""
    product: Product = lambda total, x, w: total + multiply_words(x("int16"), as_type(w, "int16"))  # noqa: E731
    return _each("vpmaddwd, vpaddd", 16, 12, 8, product)


def byte_pairs(depth: int, masked: bool = False) -> Mix:
    """Products of bytes, `depth` of them added in 16 bits before they are widened.

    Where that is more than one, sums of 32 bits cannot all stay in registers: nine of 16 bits take turns with three.
    """
    narrow, wide = (9, 3) if depth > 1 else (0, 12)

    def product(fresh: Fresh, constant: Value) -> Value:
        x = as_type(let(fresh("int32") & constant), "uint8") if masked else fresh("uint8")
        return multiply_bytes(x, as_type(constant, "int8"))

    def widened(total: Value, word: Value, constant: Value) -> Value:
        return total + multiply_words(as_type(word, "int16"), as_type(constant, "int16"))

    def step(accs: Sequence[Register], fresh: Fresh, constant: Value) -> None:
        if not narrow:
            for total in accs:
                total.value = widened(total.value, product(fresh, constant), constant)
        for i in range(depth):
            for word in accs[:narrow]:
                added = product(fresh, constant)
                word.value = as_type(as_type(word.value, "int16") + added if i else added, "int32")
        for i, word in enumerate(accs[:narrow]):
            total = accs[narrow + i % wide]
            total.value = widened(total.value, word.value, constant)

    pairs = "vpmaddubsw" if depth == 1 else f"{depth} x vpmaddubsw + vpaddw"
    name = f"{'vpand, ' if masked else ''}{pairs}, vpmaddwd, vpaddd"
    return Mix(name, 32 * depth * (narrow or wide), narrow + wide, 8, step)


def nibbles(macs: int, looked_up: int, pairs: bool) -> Mix:
    """Bytes from tables of 16, each vector worth `macs`, as many added before they enter sums of 16 bits.

    pairs: neighbouring bytes belong to one sum; otherwise even and odd ones have sums of their own.
    """
    lines = 5

    def step(accs: Sequence[Register], fresh: Fresh, constant: Value) -> None:
        for low, high in zip(accs[:lines], accs[lines:], strict=True):
            found = [
                intrinsic(_SHUFFLE, "uint8", 32, as_type(constant, "uint8"), fresh("uint8")) for _ in range(looked_up)
            ]
            total = let(reduce(add, found))
            counted = multiply_bytes(total, as_type(constant, "int8")) if pairs else as_type(total, "int16")
            low.value = as_type(as_type(low.value, "int16") + counted, "int32")
            if not pairs:
                odd = as_type(as_type(total, "uint16") >> 8, "int16")
                high.value = as_type(as_type(high.value, "int16") + odd, "int32")

    counting = "vpmaddubsw, vpaddw" if pairs else "2 x vpaddw, vpsrlw"
    return Mix(f"{looked_up} x vpshufb + vpaddb, {counting}", macs * looked_up * lines, 2 * lines, 8, step)


def _float(r: Request) -> Mix:
    return fused(native_lanes(r.features), vector_registers(r.features))


def _tables(r: Request) -> Mix:
    coding = table_indices.table_coding(r)
    return tables(16 * coding.channels, coding.sums_limit(r.precision.activation_bits))


def _taps(r: Request) -> Mix:
    """Products of bytes, each once for every plane of weights."""
    way = tap_sums(r)
    assert way is not None
    mix = byte_pairs(len(way.sums))
    return mix if way.planes == 1 else replace(mix, name=f"2 x ({mix.name})", macs=mix.macs / 2)


def _nibbles(r: Request) -> Mix:
    coding = nibble_indices.nibble_coding(r)
    macs = 2 * coding.part_channels * nibble_indices.GROUP
    return nibbles(macs, nibble_indices.sums_limit(r.precision.activation_bits), coding.beside > 1)


_MIXES: dict[str, Callable[[Request], Mix]] = {
    **dict.fromkeys(("f32_conv2d__generic", "f32_gconv2d__generic", "f32_dwconv2d__generic"), _float),
    **dict.fromkeys(("bf16_conv2d__avx512bf16", "bf16_gconv2d__avx512bf16"), lambda r: bfloat16()),
    **dict.fromkeys((f"qu8_qs8_s32_{kind}conv2d__avx512vnni" for kind in ("", "g", "dw")), lambda r: vnni()),
    **dict.fromkeys((f"qu8_qs8_s32_{kind}conv2d__avxvnni" for kind in ("", "g", "dw")), lambda r: vnni_256()),
    **dict.fromkeys((f"qu8_qc{n}u_s32_linear__avxvnni" for n in (1, 2, 4)), lambda r: masked_vnni(8)),
    **dict.fromkeys((f"qu8_qc4s_s{n}_conv2d__avx512vnni" for n in (8, 32)), lambda r: vnni()),
    **dict.fromkeys((f"qu8_qc{n}u_s32_linear__avx512vnni" for n in (1, 2, 4)), lambda r: masked_vnni()),
    **dict.fromkeys((f"qu8_qs{n}_s32_lutconv2d__avx512vbmi" for n in (1, 2)), _tables),
    "qu8_qs1_s32_lutlinear__avx512vbmi": lambda r: subsets(SubsetLookup(r.precision.activation_bits).pieces),
    "qu2_qs1_s32_bitconv2d__avx512vpopcntdq": lambda r: differing_bits(r.precision.activation_bits),
    **dict.fromkeys((f"qu8_qs8_s32_{kind}conv2d__avx2" for kind in ("", "g", "dw")), lambda r: words()),
    "qu8_qs8_s32_winograd__avx2": lambda r: words(),
    "qu8_qs8_s16_conv2d__avx2": lambda r: byte_pairs(bytes_depth(r)),
    "qu8_qs8_s16_dwconv2d__avx2": _taps,
    **dict.fromkeys(
        (f"qu8_qc{n}u_s16_linear__avx2" for n in (1, 2, 4)), lambda r: byte_pairs(steps_limit(field_coding(r)), True)
    ),
    **dict.fromkeys((f"qu8_qs{n}_s32_lutconv2d__avx2" for n in (1, 2)), _nibbles),
}

FAMILIES = frozenset(_MIXES)
"""Names of all that have one."""


def mix_of(kernel: Kernel) -> Mix | None:
    """What bounds a kernel on x86; None for portable kernels, whose instructions LLVM chooses."""
    make = _MIXES.get(kernel.family.name)
    return make(kernel.request) if make else None
