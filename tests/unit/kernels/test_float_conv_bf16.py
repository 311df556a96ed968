"""bfloat16 convolutions against exact arithmetic on the rounded operands."""

import dataclasses

import numpy as np
import pytest
import tvm
from tvm.target import codegen

from tvm_mpq.kernels import candidate_precisions
from tvm_mpq.kernels.families import float_convolution as float_conv
from tvm_mpq.kernels.registry import Kernel, Request, default_kernel, fitting
from tvm_mpq.numerics import bfloat16
from tvm_mpq.numerics.activations import apply
from tvm_mpq.numerics.conv import float_conv2d
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import BF16, FP32, Conv2dWorkload, Precision

C = Conv2dWorkload
MCPU = "cooperlake"  # the smallest machine that has the instructions
FEATURES = frozenset(codegen.llvm_get_cpu_features(tvm.target.Target({"kind": "llvm", "mcpu": MCPU})))
SAME = (1, 1, 1, 1)
NONE = (0, 0, 0, 0)

DENSE = [
    C(1, 1, 9, 17, 33, (1, 1)),  # an odd number of inputs, read by columns
    C(1, 1, 1, 40, 50, (1, 1)),
    C(1, 1, 300, 7, 16, (1, 1)),
    C(1, 6, 6, 1, 32, (3, 3), (1, 1), SAME),
    C(1, 11, 13, 3, 24, (3, 3), (2, 2), (0, 0, 1, 1)),
    C(2, 9, 10, 7, 17, (3, 3), (1, 1), SAME),
    C(1, 15, 15, 3, 16, (7, 7), (2, 2), (3, 3, 3, 3)),
    C(2, 7, 5, 8, 48, (3, 2), (2, 1), (1, 0, 2, 1)),
    C(1, 12, 9, 5, 20, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    C(1, 1, 20, 6, 20, (1, 5), (1, 2), (0, 3, 0, 1)),
    C(2, 9, 8, 17, 32, (1, 1), (2, 2)),  # only every fourth position is read
    C(1, 1, 1, 1, 16, (1, 1)),
    C(1, 8, 8, 4, 16, (3, 3)),
]
GROUPED = [C(1, 6, 7, 12, 54, (3, 3), (1, 1), SAME, (1, 1), 3), C(1, 6, 7, 64, 64, (1, 1), (1, 1), NONE, (1, 1), 2)]

native = pytest.mark.isa("avx512bf16")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def compiled(func):
    target = tvm.target.Target({"kind": "llvm", "mcpu": MCPU})
    return tvm.compile(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), target=target)


def arrays_for(w, rng):
    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    x = normal(w.batch, w.in_height, w.in_width, w.in_channels)
    weight = normal(w.out_channels, *w.kernel, w.in_channels // w.groups)
    return x, weight, normal(w.out_channels), normal(w.batch, w.out_height, w.out_width, w.out_channels)


def run(kernel, x, weight, bias, residual):
    w = kernel.request.workload
    out = np.full((w.batch, w.out_height, w.out_width, w.out_channels), np.nan, np.float32)
    constants = kernel.constants(Operands((None,), None, weight, bias))
    data = [tvm.runtime.tensor(a) for a in (x, *([residual] if w.residual else []), *constants, out)]
    compiled(kernel.build())["main"](*data)
    return data[-1].numpy()


def check(kernel, rng):
    w = kernel.request.workload
    x, weight, bias, residual = arrays_for(w, rng)
    rounded = bfloat16.round_to_bfloat16(x), bfloat16.round_to_bfloat16(weight)
    linear = dataclasses.replace(w, residual=False, activation="none")
    exact = float_conv2d(*rounded, bias, linear)
    magnitude = float_conv2d(abs(rounded[0]), abs(rounded[1]), abs(bias), linear)
    if w.residual:
        exact, magnitude = exact + residual, magnitude + abs(residual)
    bound = bfloat16.sum_bound(w.weight_count // w.out_channels, magnitude)
    difference = abs(run(kernel, x, weight, bias, residual) - apply(w.activation, exact))
    assert np.all(difference <= 1.2 * bound + 2e-6 * abs(exact)), difference.max()  # 1.2: the steepest activation


def request(w, threads=1):
    return Request(w, BF16, 32, FEATURES, threads)


@native
@pytest.mark.parametrize("w", DENSE + GROUPED, ids=lambda w: w.key)
def test_equals_exact_arithmetic_on_rounded_operands(w, rng):
    check(default_kernel(request(w)), rng)


@native
@pytest.mark.parametrize("activation", ["relu", "hard_swish", "gelu"])
def test_residual_and_activation_stay_float32(activation, rng):
    w = C(1, 5, 3, 4, 20, (3, 3), (1, 1), SAME, residual=True, activation=activation)
    (family,) = fitting(request(w))
    check(Kernel(request(w), family, {"lanes": 16, "rows": 1, "cols": 2, "blocks": 2}), rng)


@native
@pytest.mark.parametrize("w", [DENSE[0], DENSE[5], DENSE[10], GROUPED[0]], ids=lambda w: w.key)
def test_every_candidate_is_right(w, rng):
    (family,) = fitting(request(w))
    space = family.knob_space(request(w))
    assert 1 <= len({str(k) for k in space}) == len(space) <= 10
    for knobs in space[1::4]:
        check(Kernel(request(w), family, knobs), rng)


@native
@pytest.mark.parametrize("w", [DENSE[2], DENSE[5], DENSE[10]], ids=lambda w: w.key)
def test_threads_change_nothing(w, rng):
    arrays = arrays_for(w, rng)
    one = default_kernel(request(w))
    three = Kernel(request(w, 3), one.family, one.knobs)
    assert np.array_equal(run(one, *arrays), run(three, *arrays))


@native
def test_two_kernels_in_one_library(rng):
    """Each brings its own copy of the code that it calls."""
    kernels = [default_kernel(request(w)) for w in (DENSE[1], DENSE[12])]
    functions = {f"k{i}": k.build().with_attr("global_symbol", f"k{i}") for i, k in enumerate(kernels)}
    lib = tvm.compile(tvm.IRModule(functions), target=tvm.target.Target({"kind": "llvm", "mcpu": MCPU}))
    for i, kernel in enumerate(kernels):
        x, weight, bias, residual = arrays_for(kernel.request.workload, rng)
        constants = kernel.constants(Operands((None,), None, weight, bias))
        data = [tvm.runtime.tensor(a) for a in (x, *constants, np.zeros_like(residual))]
        lib[f"k{i}"](*data)
        np.testing.assert_array_equal(data[-1].numpy(), run(kernel, x, weight, bias, residual))


def test_the_inner_loop_multiplies_pairs():
    """The helpers are inlined, inputs are converted by their own instruction, and no sum goes through memory."""
    kernel = default_kernel(request(C(1, 14, 14, 64, 64, (3, 3), (1, 1), SAME)))
    source = compiled(kernel.build()).mod.inspect_source("s")
    lines = [line.split("#")[0] for line in source.splitlines()]
    assert any("vdpbf16ps" in line for line in lines) and any("vcvtneps2bf16" in line for line in lines)
    assert not any("call" in line and "mpq_" in line for line in lines)
    inner = [i for i, line in enumerate(lines) if "vdpbf16ps" in line]
    assert not any("zmm" in line and "rsp" in line for line in lines[inner[0] : inner[-1]])


def test_offered_only_where_it_is_code_of_its_own():
    w = C(1, 8, 8, 16, 32, (3, 3), (1, 1), SAME)
    assert BF16 in candidate_precisions(w, FEATURES)
    assert candidate_precisions(w, FEATURES).index(BF16) == 1
    assert BF16 not in candidate_precisions(w, FEATURES - {"avx512bf16"})
    assert fitting(request(w)) == [float_conv.BF16_CONV2D]
    assert fitting(request(GROUPED[0])) == [float_conv.BF16_GCONV2D]
    assert float_conv.BF16_CONV2D not in fitting(Request(w, FP32, 32, FEATURES))
    assert not fitting(Request(w, BF16, 8, FEATURES))
    for other in (
        C(1, 8, 8, 16, 15, (3, 3)),  # fewer channels than lanes
        C(1, 8, 8, 32, 32, (3, 3), (1, 1), SAME, (1, 1), 32),  # depthwise gains nothing
        C(1, 8, 8, 9, 48, (3, 3), (1, 1), SAME, (1, 1), 3),  # a pair would reach into the next group
    ):
        assert not fitting(request(other))


def test_precision_text():
    assert str(BF16) == "bf16" and Precision.parse("bf16") == BF16 and BF16.is_float
