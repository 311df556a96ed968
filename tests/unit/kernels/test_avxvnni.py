"""Kernels for AVX-VNNI equal the definition bit for bit, and are the instructions that they are meant to be.

CPUs that lack vpdpbusd of 256 bits run the same machine code: a handler of the signal that it raises computes it.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import tvm

from mpq_testing import low_bit
from mpq_testing.assembly import inner_loops
from mpq_testing.avx_vnni import imitated
from mpq_testing.conv_cases import DENSE, DEPTHWISE, GROUPED, SAME, TRANSPOSED, TURNS, C
from tvm_mpq.kernels import Kernel, Request, default_kernel, families
from tvm_mpq.kernels.shapes import geometry
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.schema import W8A8, Precision
from tvm_mpq.targets import features, resolve, to_tvm

TARGET = resolve("alderlake")
FEATURES = features(TARGET)
check = functools.partial(low_bit.check, mcpu=TARGET.mcpu)


@pytest.fixture(autouse=True)
def small_kernels_use_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "PARALLEL_MACS", 0)


@pytest.fixture
def vnni() -> Iterator[None]:
    with imitated():
        yield


def kernel(name: str, w: C, precision: Precision = W8A8, out_bits: int = 8, threads: int = 1, turn: int = 0) -> Kernel:
    """One of the row's tiles, by the number of the turn."""
    (row,) = (f for f in families() if f.name == f"{name}__avxvnni")
    request = Request(w, precision, out_bits if is_clamp(w.activation) else 8, FEATURES, threads)
    assert row.fits(request)
    space = row.knob_space(request)
    return Kernel(request, row, space[turn % len(space)])


def assembly(k: Kernel) -> str:
    return str(tvm.compile(tvm.IRModule({"main": k.build()}), target=to_tvm(TARGET)).mod.inspect_source("s"))


CONVOLUTIONS = [
    *(("qu8_qs8_s32_conv2d", w) for w in (*DENSE[::2], DENSE[9], *TRANSPOSED[:4:3])),
    *(("qu8_qs8_s32_gconv2d", w) for w in GROUPED[:2]),
]


@pytest.mark.usefixtures("vnni")
@pytest.mark.parametrize("turn", range(len(CONVOLUTIONS)))
def test_convolutions_equal_the_definition(turn: int, rng: np.random.Generator) -> None:
    name, w = CONVOLUTIONS[turn]
    precision, out_bits, threads, _ = TURNS[turn % len(TURNS)]
    check(kernel(name, w, precision, out_bits, threads, turn), rng, (None, 1, -1))


@pytest.mark.usefixtures("vnni")
def test_every_tile_equals_the_definition(rng: np.random.Generator) -> None:
    """Among them the one of seven positions, which reads weights as operands in memory."""
    w = C(1, 2, 14, 20, 40, (3, 3), (1, 1), SAME)
    seen = set()
    for turn in range(6):
        k = kernel("qu8_qs8_s32_conv2d", w, out_bits=32, turn=turn)
        seen.add(k.knobs["columns"])
        check(k, rng, (None, 1))
    assert 7 in seen


DEPTHWISE_CASES = [*DEPTHWISE[:5], DEPTHWISE[7]]


@pytest.mark.usefixtures("vnni")
@pytest.mark.parametrize("turn", range(len(DEPTHWISE_CASES)))
def test_depthwise_equals_the_definition(turn: int, rng: np.random.Generator) -> None:
    precision, out_bits, threads, _ = TURNS[turn % len(TURNS)]
    check(kernel("qu8_qs8_s32_dwconv2d", DEPTHWISE_CASES[turn], precision, out_bits, threads, turn), rng, (None, 1, -1))


def linear(rows: int, inputs: int, outputs: int, activation: str = "none", residual: bool = False) -> C:
    return C(1, 1, rows, inputs, outputs, (1, 1), residual=residual, activation=activation)


LINEAR = [
    (linear(3, 150, 330, residual=True), "w4a8"),
    (linear(2, 37, 100, "relu"), "w3a8"),
    (linear(2, 150, 330), "w2a8"),
    (linear(1, 1030, 20, "hard_swish"), "w2a5"),
    (linear(1, 150, 330), "w1a8"),
    (linear(1, 37, 24, residual=True), "w1a2"),
]


@pytest.mark.usefixtures("vnni")
@pytest.mark.parametrize("turn", range(len(LINEAR)))
def test_packed_linear_layers_equal_the_definition(turn: int, rng: np.random.Generator) -> None:
    """Tiles that are moved back, fields not in use, sums at both ends."""
    (w, text), threads = LINEAR[turn], turn % 2 + 1
    bits = {"w3": "4"}.get(text[:2], text[1])
    out_bits = 8 if w.residual or turn % 2 else 32
    for i in range(2):
        k = kernel(f"qu8_qc{bits}u_s32_linear", w, Precision.parse(text), out_bits, threads, 2 * turn + i)
        check(k, rng, (None, 1, -1))


@pytest.mark.parametrize(("weight_bits", "masks"), [(4, 1), (2, 3), (1, 7)])
def test_fields_cost_a_mask_but_the_lowest(weight_bits: int, masks: int) -> None:
    """All else that the loop does is to load; masks that no register is left for are read, sums stay."""
    k = kernel(f"qu8_qc{weight_bits}u_s32_linear", linear(1, 1024, 1000), Precision(weight_bits, 8))
    text = assembly(k)
    loop = max(inner_loops(text), key=lambda lines: sum(line.startswith("vpdpbusd") for line in lines))
    names = Counter(line.split()[0] for line in loop)
    assert set(names) <= {"vpdpbusd", "vpand", "vpbroadcastd", "vmovdqa", "vmovdqu"} and "zmm" not in text
    assert names["vpand"] * (masks + 1) == names["vpdpbusd"] * masks
    assert not [line for line in loop if "rsp" in line or line.endswith(")")], "something is stored"


LAYER = C(1, 14, 14, 256, 256, (3, 3), (1, 1), SAME)


@pytest.mark.parametrize("turn", range(6))
def test_steps_are_products_and_loads(turn: int) -> None:
    """Every tile of a layer: nothing but vpdpbusd and what it reads, in its VEX form, no register put aside."""
    k = kernel("qu8_qs8_s32_conv2d", LAYER, turn=turn)
    text = assembly(k)
    assert "zmm" not in text and text.count("{vex}") == text.count("vpdpbusd")
    loops = [loop for loop in inner_loops(text) if any(line.startswith("vpdpbusd") for line in loop)]
    assert loops
    for loop in loops:
        names = [line.split()[0] for line in loop]
        assert set(names) <= {"vpdpbusd", "vpbroadcastd", "vmovdqa", "vmovdqu"}
        assert not [line for line in loop if "rsp" in line or line.endswith(")")], "something is stored"
        assert all("%ymm" in line for line in loop)
        products, broadcasts = names.count("vpdpbusd"), names.count("vpbroadcastd")
        assert products % broadcasts == 0 and products // broadcasts in range(2, 2 * k.knobs["blocks"] + 1, 2)


@pytest.mark.parametrize("target", ["alderlake", "gracemont", "arrowlake-s", "lunarlake"])
@pytest.mark.parametrize("precision", ["w8a8", "w7a8", "w4a8"])
def test_it_is_the_default_of_clients(target: str, precision: str) -> None:
    chosen = default_kernel(Request(LAYER, Precision.parse(precision), 8, features(resolve(target))))
    assert chosen.family.name == "qu8_qs8_s32_conv2d__avxvnni"


@pytest.mark.parametrize("target", ["znver5", "sapphirerapids"])
def test_wide_vectors_go_first(target: str) -> None:
    chosen = default_kernel(Request(LAYER, W8A8, 8, features(resolve(target))))
    assert chosen.family.name == "qu8_qs8_s32_conv2d__avx512vnni"
