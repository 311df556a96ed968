"""The table of known processors: facts with their source, no measured numbers, no functions.

`isa_features` holds LLVM's names of the features that kernels choose by; a test asks LLVM whether each `mcpu` has them.
`cores` and cache sizes are those of the part or board that `source` names: one model of a family, used when code is
compiled away from the device. On the device itself `local_row()` reads the real ones.

In one file: it is one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class TargetRow:
    """One processor to compile for."""

    name: str
    mcpu: str
    isa_features: tuple[str, ...]  # LLVM's names
    cores: int  # physical
    l1d_bytes: int  # of one core
    l2_bytes: int  # as one core sees it, also where several share it
    l3_bytes: int | None  # shared; None where there is none
    source: str
    mtriple: str | None = None  # None = the machine that compiles
    mattr: tuple[str, ...] = ()  # "+feature" or "-feature" beyond what mcpu says
    aliases: tuple[str, ...] = ()
    kind: str = "llvm"


_X86 = "x86_64-linux-gnu"
_ARM64 = "aarch64-linux-gnu"
_RISCV = "riscv64-linux-gnu"

_AVX2 = ("avx", "avx2", "bmi2", "f16c", "fma", "popcnt", "sse4.1", "ssse3")
_AVX_VNNI = (*_AVX2, "avxvnni", "gfni")
_AVX512 = (*_AVX2, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_ICELAKE = (
    *_AVX512,
    *("avx512bitalg", "avx512ifma", "avx512vbmi", "avx512vbmi2", "avx512vnni", "avx512vpopcntdq", "gfni"),
)
_ARMV9 = ("bf16", "dotprod", "fp-armv8", "fullfp16", "i8mm", "neon", "sve", "sve2")

ROWS: tuple[TargetRow, ...] = (
    TargetRow(
        name="x86-avx2",
        aliases=("haswell",),
        mcpu="haswell",
        mtriple=_X86,
        isa_features=_AVX2,
        cores=4,
        l1d_bytes=32 * KIB,
        l2_bytes=256 * KIB,
        l3_bytes=8 * MIB,
        source="Intel 64 and IA-32 Architectures Optimization Reference Manual, Haswell; Core i7-4770 specification",
    ),
    TargetRow(
        name="alderlake",
        aliases=("x86-avxvnni",),
        mcpu="alderlake",
        mtriple=_X86,
        isa_features=_AVX_VNNI,
        cores=8,
        l1d_bytes=48 * KIB,
        l2_bytes=1280 * KIB,
        l3_bytes=25 * MIB,
        source="Intel Optimization Reference Manual, Golden Cove; Core i7-12700 specification, performance cores",
    ),
    TargetRow(
        name="gracemont",
        mcpu="gracemont",
        mtriple=_X86,
        isa_features=_AVX_VNNI,
        cores=4,
        l1d_bytes=32 * KIB,
        l2_bytes=2 * MIB,
        l3_bytes=6 * MIB,
        source="Intel Optimization Reference Manual, Gracemont; Processor N100 specification",
    ),
    TargetRow(
        name="arrowlake-s",
        mcpu="arrowlake-s",
        mtriple=_X86,
        isa_features=_AVX_VNNI,
        cores=8,
        l1d_bytes=48 * KIB,
        l2_bytes=3 * MIB,
        l3_bytes=30 * MIB,
        source="Intel Optimization Reference Manual, Lion Cove; Core Ultra 7 265K specification, performance cores",
    ),
    TargetRow(
        name="lunarlake",
        mcpu="lunarlake",
        mtriple=_X86,
        isa_features=_AVX_VNNI,
        cores=4,
        l1d_bytes=48 * KIB,
        l2_bytes=2560 * KIB,
        l3_bytes=12 * MIB,
        source="Intel Optimization Reference Manual, Lion Cove; Core Ultra 7 258V specification, performance cores",
    ),
    TargetRow(
        name="skylake-avx512",
        aliases=("x86-avx512",),
        mcpu="skylake-avx512",
        mtriple=_X86,
        isa_features=_AVX512,
        cores=8,
        l1d_bytes=32 * KIB,
        l2_bytes=1 * MIB,
        l3_bytes=11 * MIB,
        source="Intel Optimization Reference Manual, Skylake Server; Xeon Silver 4110 specification",
    ),
    TargetRow(
        name="cascadelake",
        aliases=("x86-avx512vnni",),
        mcpu="cascadelake",
        mtriple=_X86,
        isa_features=(*_AVX512, "avx512vnni"),
        cores=8,
        l1d_bytes=32 * KIB,
        l2_bytes=1 * MIB,
        l3_bytes=11 * MIB,
        source="Intel Optimization Reference Manual, Skylake Server with VNNI; Xeon Silver 4208 specification",
    ),
    TargetRow(
        name="icelake-server",
        mcpu="icelake-server",
        mtriple=_X86,
        isa_features=_ICELAKE,
        cores=12,
        l1d_bytes=48 * KIB,
        l2_bytes=1280 * KIB,
        l3_bytes=18 * MIB,
        source="Intel Optimization Reference Manual, Ice Lake Server; Xeon Silver 4310 specification",
    ),
    TargetRow(
        name="sapphirerapids",
        mcpu="sapphirerapids",
        mtriple=_X86,
        isa_features=(*_ICELAKE, "avx512bf16", "avx512fp16", "avxvnni"),
        cores=12,
        l1d_bytes=48 * KIB,
        l2_bytes=2 * MIB,
        l3_bytes=30 * MIB,
        source="Intel Optimization Reference Manual, Golden Cove; Xeon Silver 4410Y specification",
    ),
    TargetRow(
        name="znver3",
        mcpu="znver3",
        mtriple=_X86,
        isa_features=_AVX2,
        cores=8,
        l1d_bytes=32 * KIB,
        l2_bytes=512 * KIB,
        l3_bytes=32 * MIB,
        source="Software Optimization Guide for AMD Family 19h (publication 56665); Ryzen 7 5800X specification",
    ),
    TargetRow(
        name="znver4",
        mcpu="znver4",
        mtriple=_X86,
        isa_features=(*_ICELAKE, "avx512bf16"),
        cores=8,
        l1d_bytes=32 * KIB,
        l2_bytes=1 * MIB,
        l3_bytes=32 * MIB,
        source="Software Optimization Guide for the AMD Zen4 Microarchitecture (57647); Ryzen 7 7700X specification",
    ),
    TargetRow(
        name="znver5",
        mcpu="znver5",
        mtriple=_X86,
        isa_features=(*_ICELAKE, "avx512bf16", "avxvnni"),
        cores=8,
        l1d_bytes=48 * KIB,
        l2_bytes=1 * MIB,
        l3_bytes=32 * MIB,
        source="Software Optimization Guide for the AMD Zen5 Microarchitecture (58455); Ryzen 7 9700X specification",
    ),
    TargetRow(
        name="x86-64",
        mcpu="x86-64",
        mtriple=_X86,
        isa_features=(),
        cores=1,
        l1d_bytes=64 * KIB,
        l2_bytes=1 * MIB,
        l3_bytes=None,
        source="System V ABI, AMD64 supplement: what every x86-64 CPU has; AMD Opteron 140 specification",
    ),
    TargetRow(
        name="cortex-a53",
        mcpu="cortex-a53",
        mtriple=_ARM64,
        isa_features=("fp-armv8", "neon"),
        cores=4,
        l1d_bytes=32 * KIB,
        l2_bytes=512 * KIB,
        l3_bytes=None,
        source="Arm Cortex-A53 Technical Reference Manual; Raspberry Pi 3 (BCM2837)",
    ),
    TargetRow(
        name="cortex-a55",
        mcpu="cortex-a55",
        mtriple=_ARM64,
        isa_features=("dotprod", "fp-armv8", "fullfp16", "neon"),
        cores=4,
        l1d_bytes=32 * KIB,
        l2_bytes=128 * KIB,
        l3_bytes=3 * MIB,
        source="Arm Cortex-A55 Technical Reference Manual; small cores of Rockchip RK3588 datasheet",
    ),
    TargetRow(
        name="cortex-a72",
        mcpu="cortex-a72",
        mtriple=_ARM64,
        isa_features=("fp-armv8", "neon"),
        cores=4,
        l1d_bytes=32 * KIB,
        l2_bytes=1 * MIB,
        l3_bytes=None,
        source="Arm Cortex-A72 Technical Reference Manual; Raspberry Pi 4 (BCM2711)",
    ),
    TargetRow(
        name="cortex-a76",
        mcpu="cortex-a76",
        mtriple=_ARM64,
        isa_features=("dotprod", "fp-armv8", "fullfp16", "neon"),
        cores=4,
        l1d_bytes=64 * KIB,
        l2_bytes=512 * KIB,
        l3_bytes=2 * MIB,
        source="Arm Cortex-A76 Technical Reference Manual; Raspberry Pi 5 (BCM2712)",
    ),
    TargetRow(
        name="neoverse-n1",
        mcpu="neoverse-n1",
        mtriple=_ARM64,
        isa_features=("dotprod", "fp-armv8", "fullfp16", "neon"),
        cores=64,
        l1d_bytes=64 * KIB,
        l2_bytes=1 * MIB,
        l3_bytes=32 * MIB,
        source="Arm Neoverse N1 Software Optimization Guide; AWS Graviton2 technical guide",
    ),
    TargetRow(
        name="neoverse-v1",
        mcpu="neoverse-v1",
        mtriple=_ARM64,
        isa_features=("bf16", "dotprod", "fp-armv8", "fullfp16", "i8mm", "neon", "sve"),
        cores=64,
        l1d_bytes=64 * KIB,
        l2_bytes=1 * MIB,
        l3_bytes=32 * MIB,
        source="Arm Neoverse V1 Software Optimization Guide; AWS Graviton3 technical guide",
    ),
    TargetRow(
        name="neoverse-n2",
        mcpu="neoverse-n2",
        mtriple=_ARM64,
        isa_features=_ARMV9,
        cores=128,
        l1d_bytes=64 * KIB,
        l2_bytes=1 * MIB,
        l3_bytes=64 * MIB,
        source="Arm Neoverse N2 Software Optimization Guide; Alibaba Yitian 710 (ECS g8y instances)",
    ),
    TargetRow(
        name="cortex-a710",
        mcpu="cortex-a710",
        mtriple=_ARM64,
        isa_features=_ARMV9,
        cores=3,
        l1d_bytes=64 * KIB,
        l2_bytes=512 * KIB,
        l3_bytes=6 * MIB,
        source="Arm Cortex-A710 Technical Reference Manual; middle cores of Qualcomm Snapdragon 8 Gen 1",
    ),
    TargetRow(
        name="apple-m1",
        mcpu="apple-m1",
        mtriple="arm64-apple-macos",
        isa_features=("dotprod", "fp-armv8", "fullfp16", "neon"),
        cores=4,
        l1d_bytes=128 * KIB,
        l2_bytes=12 * MIB,
        l3_bytes=8 * MIB,
        source="Apple Silicon CPU Optimization Guide, M1 performance cores; l3 is the system level cache",
    ),
    TargetRow(
        name="apple-m2",
        mcpu="apple-m2",
        mtriple="arm64-apple-macos",
        isa_features=("bf16", "dotprod", "fp-armv8", "fullfp16", "i8mm", "neon"),
        cores=4,
        l1d_bytes=128 * KIB,
        l2_bytes=16 * MIB,
        l3_bytes=8 * MIB,
        source="Apple Silicon CPU Optimization Guide, M2 performance cores; l3 is the system level cache",
    ),
    TargetRow(
        name="cortex-a7",
        mcpu="cortex-a7",
        mtriple="armv7-linux-gnueabihf",
        isa_features=("neon", "vfp4"),
        cores=4,
        l1d_bytes=32 * KIB,
        l2_bytes=512 * KIB,
        l3_bytes=None,
        source="Arm Cortex-A7 MPCore Technical Reference Manual; Raspberry Pi 2 (BCM2836)",
    ),
    TargetRow(
        name="rv64gc",
        mcpu="generic-rv64",
        mtriple=_RISCV,
        mattr=("+m", "+a", "+f", "+d", "+c"),
        isa_features=("a", "c", "d", "f", "m"),
        cores=4,
        l1d_bytes=32 * KIB,
        l2_bytes=2 * MIB,
        l3_bytes=None,
        source="RISC-V Unprivileged ISA; SiFive U74 cores of StarFive JH7110 datasheet (VisionFive 2)",
    ),
    TargetRow(
        name="rv64gcv",
        mcpu="generic-rv64",
        mtriple=_RISCV,
        # v promises vectors of 128 bits at least; code for it runs on wider ones.
        mattr=("+m", "+a", "+f", "+d", "+c", "+v"),
        isa_features=("a", "c", "d", "f", "m", "v", "zvl128b"),
        cores=8,
        l1d_bytes=32 * KIB,
        l2_bytes=512 * KIB,
        l3_bytes=None,
        source="RISC-V Unprivileged ISA, vector extension 1.0; SpacemiT K1 datasheet (Banana Pi BPI-F3)",
    ),
)

BY_NAME: Mapping[str, TargetRow] = {name: row for row in ROWS for name in (row.name, *row.aliases)}
"""Every row by its name and by its aliases."""
