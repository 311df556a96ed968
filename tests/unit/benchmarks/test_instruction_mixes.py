"""What ceilings are measured with: every x86 family has a mix, whose loop is its instructions and nothing else."""

from __future__ import annotations

import importlib
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tvm

from mpq_testing.assembly import inner_loops
from tvm_mpq.kernels import families
from tvm_mpq.schema import Conv2dWorkload
from tvm_mpq.targets import resolve, to_tvm

BENCHMARKS = str(Path(__file__).parents[3] / "benchmarks")


@pytest.fixture(scope="module")
def mixes() -> Iterator[Any]:
    sys.path.insert(0, BENCHMARKS)
    yield importlib.import_module("instruction_mixes")
    sys.path.remove(BENCHMARKS)


def test_every_x86_family_of_products_has_a_mix(mixes: Any) -> None:
    of_arm, portable = ("neon", "dotprod", "i8mm", "fullfp16"), re.compile(r"qu8_.*__generic")
    wanted = {f.name for f in families() if f.workload_type is Conv2dWorkload and not portable.fullmatch(f.name)}
    assert {name for name in wanted if not name.endswith(of_arm)} == mixes.FAMILIES


@pytest.mark.parametrize(
    ("name", "arguments", "target", "instructions"),
    [
        ("fused", (8, 16), "x86-avx2", {"vfmadd": 12}),
        ("fused", (16, 32), "znver4", {"vfmadd": 28}),
        ("bfloat16", (), "znver4", {"vdpbf16ps": 28}),
        ("vnni", (), "cascadelake", {"vpdpbusd": 28}),
        ("vnni_256", (), "alderlake", {"vpdpbusd": 12}),
        ("masked_vnni", (8,), "alderlake", {"vpand": 12, "vpdpbusd": 12}),
        ("masked_vnni", (), "cascadelake", {"vpandd": 28, "vpdpbusd": 28}),
        ("tables", (160, 3), "znver4", {"vpermb": 72, "vpaddb": 48, "vpdpbusd": 24}),
        ("subsets", (1,), "znver4", {"vperm": 24, "vpdpbusd": 24}),
        ("differing_bits", (1,), "znver4", {"vpxor": 24, "vpopcntd": 24, "vpsubd": 24}),
        ("words", (), "x86-avx2", {"vpmaddwd": 12, "vpaddd": 12}),
        ("byte_pairs", (1,), "x86-avx2", {"vpmaddubsw": 12, "vpmaddwd": 12, "vpaddd": 12}),
        ("byte_pairs", (4,), "x86-avx2", {"vpmaddubsw": 36, "vpaddw": 27, "vpmaddwd": 9, "vpaddd": 9}),
        ("byte_pairs", (4, True), "x86-avx2", {"vpand": 36, "vpmaddubsw": 36, "vpaddw": 27, "vpmaddwd": 9}),
        ("nibbles", (64, 4, True), "x86-avx2", {"vpshufb": 20, "vpaddb": 15, "vpmaddubsw": 5, "vpaddw": 5}),
        ("nibbles", (128, 2, False), "x86-avx2", {"vpshufb": 10, "vpaddb": 5, "vpsrlw": 5, "vpaddw": 10}),
    ],
)
def test_loops_hold_their_instructions_alone(
    mixes: Any, name: str, arguments: tuple[int, ...], target: str, instructions: dict[str, int]
) -> None:
    mix = getattr(mixes, name)(*arguments)
    module = tvm.compile(tvm.IRModule({"main": mix.build()}), target=to_tvm(resolve(target)))
    loop = max(inner_loops(module.mod.inspect_source("s")), key=len)
    assert not [line for line in loop if "(" in line], "something is read from memory"
    found: Counter[str] = Counter()
    for line in loop:
        found.update(each for each in instructions if line.startswith(each))
    passes = found[min(instructions)] // instructions[min(instructions)]  # LLVM may unroll the loop
    assert passes > 0 and dict(found) == {each: passes * times for each, times in instructions.items()}
