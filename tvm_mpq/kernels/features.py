"""LLVM features that kernels ask of a CPU, by what they are needed for, and what vectors such a CPU has."""

from __future__ import annotations

GENERIC: frozenset[str] = frozenset()
"""Whatever CPU it is."""
AVX2 = frozenset({"avx2"})
AVX_VNNI = AVX2 | {"avxvnni"}
"""vpdpbusd of 256 bits without AVX-512."""
AVX512 = frozenset({"avx512f", "avx512bw"})
"""Vectors of 64 bytes, with arithmetic on bytes."""
VNNI = AVX512 | {"avx512vnni"}
"""vpdpbusd: four products of bytes added to each int32."""
VBMI = AVX512 | {"avx512vbmi"}
"""Permutes of bytes: tables in registers."""
VPOPCNTDQ = AVX512 | {"avx512vpopcntdq"}
"""Bits of words counted."""
AVX512_BF16 = frozenset({"avx512bf16"})
NEON = frozenset({"fp-armv8", "neon"})
"""Of 64-bit ARM: `fp-armv8` tells it from 32-bit ARM, whose NEON lacks the instructions that kernels name."""
DOTPROD = NEON | {"dotprod"}
"""sdot: four products of signed bytes added to each int32."""
FULLFP16 = NEON | {"fullfp16"}
"""fmla of eight halves."""
I8MM = DOTPROD | {"i8mm"}
"""usmmla: two rows of eight unsigned bytes times two columns of as many signed ones, added to four int32."""

_WITH_32_REGISTERS = {"avx512f", "fp-armv8", "f"}
"""Features that only such CPUs have; `f` is RISC-V's. Rows of x86 name no feature that all of x86 has."""


def native_lanes(features: frozenset[str]) -> int:
    """float32 elements of the CPU's widest vector: 16, 8 or 4."""
    if "avx512f" in features:
        return 16
    return 8 if "avx2" in features or "avx" in features else 4


def vector_registers(features: frozenset[str]) -> int:
    """32 with AVX-512, on 64-bit ARM and on RISC-V, 16 elsewhere."""
    return 32 if features & _WITH_32_REGISTERS else 16
