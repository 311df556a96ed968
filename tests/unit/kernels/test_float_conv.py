"""Float convolutions against float64 arithmetic, for every layout of tails, borders and groups."""

import math

import numpy as np
import pytest
import tvm

from mpq_testing.conv_cases import TRANSPOSED
from mpq_testing.slowly import slow_but
from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.emit import fit_lanes
from tvm_mpq.kernels.families import float_convolution as float_conv
from tvm_mpq.kernels.registry import Kernel, Request, default_kernel, families, fitting
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FP32, Conv2dWorkload, Precision
from tvm_mpq.targets import features, local_row, resolve

C = Conv2dWorkload
AVX2 = features(resolve("haswell"))
AVX512 = AVX2 | {"avx512f"}
MACHINES = {"haswell": AVX2, "x86-64-v4": AVX512}
HOST = "x86-64-v4" if "avx512f" in features(local_row()) else "haswell"
SAME = (1, 1, 1, 1)

DENSE = [
    C(1, 1, 9, 17, 33, (1, 1)),
    C(1, 1, 1, 40, 50, (1, 1)),
    C(3, 5, 7, 3, 10, (1, 1)),
    C(1, 6, 6, 1, 1, (3, 3), (1, 1), SAME),
    C(1, 11, 13, 3, 24, (3, 3), (2, 2), (0, 0, 1, 1)),
    C(2, 9, 10, 7, 17, (3, 3), (1, 1), SAME),
    C(1, 15, 15, 3, 16, (7, 7), (2, 2), (3, 3, 3, 3)),
    C(2, 7, 5, 8, 48, (3, 2), (2, 1), (1, 0, 2, 1)),
    C(1, 12, 9, 5, 7, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    C(1, 1, 20, 6, 20, (1, 5), (1, 2), (0, 3, 0, 1)),
    C(1, 8, 8, 16, 32, (1, 1), (2, 2)),
    C(1, 8, 8, 4, 16, (3, 3)),
]
GROUPED = [
    C(1, 6, 7, 12, 18, (3, 3), (1, 1), SAME, (1, 1), 3),
    C(1, 6, 7, 64, 64, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 2),
    C(2, 5, 5, 4, 8, (3, 3), (2, 2), SAME, (1, 1), 4),
]
DEPTHWISE = [
    C(1, 7, 9, c, c, (3, 3), (s, s), SAME, (1, 1), c) for c, s in ((2, 1), (7, 1), (16, 2), (17, 1), (33, 2), (40, 1))
] + [
    C(2, 14, 19, 16, 16, (5, 5), (1, 1), (2, 2, 2, 2), (1, 1), 16),
    C(1, 9, 9, 24, 24, (5, 5), (2, 2), (1, 2, 2, 1), (1, 1), 24),
    C(1, 9, 9, 8, 8, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 8),
    C(1, 1, 1, 64, 64, (3, 3), (1, 1), SAME, (1, 1), 64),
    C(1, 9, 40, 16, 16, (3, 3), (2, 1), (0, 0, 0, 0), (1, 1), 16),
    C(1, 2, 2, 4, 4, (5, 5), (1, 1), (4, 4, 4, 4), (1, 1), 4),
]
ACTIVATIONS = (
    "none", "relu", "clip:0.0:6.0", "clip:-1.5:0.25", "hard_swish", "hard_sigmoid",
    "sigmoid", "silu", "gelu", "gelu_tanh", "tanh", "leaky_relu:0.1", "leaky_relu:-0.5",
)  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def convolve(w, x, weight, bias):
    """float64 convolution, NHWC by OHWI, and the sum of magnitudes that bounds its rounding errors."""
    (down, across), reach = w.input_dilation, max(abs(p) for p in w.padding)
    (_, height, width, channels), (top, left, bottom, right) = x.shape, w.padding
    wide = np.zeros((w.batch, (height - 1) * down + 1 + 2 * reach, (width - 1) * across + 1 + 2 * reach, channels))
    wide[:, reach : wide.shape[1] - reach : down, reach : wide.shape[2] - reach : across] = x
    x = wide[:, reach - top : wide.shape[1] - reach + bottom, reach - left : wide.shape[2] - reach + right]
    weight = weight.astype(np.float64).reshape(w.groups, -1, *weight.shape[1:])
    y = np.zeros((w.batch, w.out_height, w.out_width, w.groups, weight.shape[1]))
    magnitude = np.zeros_like(y)
    for kh in range(w.kernel[0]):
        for kw in range(w.kernel[1]):
            rows = slice(kh * w.dilation[0], kh * w.dilation[0] + (w.out_height - 1) * w.stride[0] + 1, w.stride[0])
            cols = slice(kw * w.dilation[1], kw * w.dilation[1] + (w.out_width - 1) * w.stride[1] + 1, w.stride[1])
            part = x[:, rows, cols].reshape(*y.shape[:4], -1)
            y += np.einsum("nhwgi,goi->nhwgo", part, weight[:, :, kh, kw])
            magnitude += np.einsum("nhwgi,goi->nhwgo", abs(part), abs(weight[:, :, kh, kw]))
    shape = (w.batch, w.out_height, w.out_width, w.out_channels)
    return y.reshape(shape) + bias, magnitude.reshape(shape) + abs(bias)


def activate(name, y):
    kind, *numbers = name.split(":")
    numbers = [float(n) for n in numbers]
    logistic = 1 / (1 + np.exp(-y))
    return {
        "none": lambda: y,
        "relu": lambda: np.maximum(y, 0),
        "clip": lambda: np.clip(y, *numbers),
        "hard_swish": lambda: y * np.clip(y + 3, 0, 6) / 6,
        "hard_sigmoid": lambda: np.clip(y + 3, 0, 6) / 6,
        "sigmoid": lambda: logistic,
        "silu": lambda: y * logistic,
        "gelu": lambda: y * 0.5 * np.vectorize(math.erfc)(-y / math.sqrt(2)),
        "gelu_tanh": lambda: y * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3))),
        "tanh": lambda: np.tanh(y),
        "leaky_relu": lambda: np.where(y > 0, y, y * numbers[0]),
    }[kind]()


def run(w, kernel, mcpu, arrays):
    func = kernel.build()
    lib = tvm.compile(
        tvm.IRModule({"main": func.with_attr("global_symbol", "main")}),
        target=tvm.target.Target({"kind": "llvm", "mcpu": mcpu}),
    )
    operands = Operands((None,), None, arrays["weight"], arrays["bias"])
    out = np.full((w.batch, w.out_height, w.out_width, w.out_channels), np.nan, np.float32)
    data = [arrays["x"], *([arrays["r"]] if w.residual else []), *kernel.constants(operands), out]
    data = [tvm.runtime.tensor(a) for a in data]
    lib["main"](*data)
    return data[-1].numpy()


def make_arrays(w, rng, scale=1.0):
    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "x": normal(w.batch, w.in_height, w.in_width, w.in_channels),
        "weight": normal(w.out_channels, *w.kernel, w.in_channels // w.groups) * np.float32(scale),
        "bias": normal(w.out_channels),
        "r": normal(w.batch, w.out_height, w.out_width, w.out_channels),
    }


def check(w, kernel, mcpu, rng):
    arrays = make_arrays(w, rng)
    exact, magnitude = convolve(w, arrays["x"], arrays["weight"], arrays["bias"])
    if w.residual:
        exact, magnitude = exact + arrays["r"], magnitude + abs(arrays["r"])
    length = w.weight_count // w.out_channels + 2
    bound = length * np.finfo(np.float32).eps / 2 * magnitude  # one rounding a step
    got = run(w, kernel, mcpu, arrays)
    difference = abs(got - activate(w.activation, exact))
    slope = 1.2  # the steepest activation
    assert np.all(difference <= slope * bound + 2e-6 * abs(exact)), difference.max()


def machine_cases(workloads):
    """All on this machine, every third also for AVX2 (half as many registers, other tiles)."""
    cases = [(w, HOST) for w in workloads] + [(w, "haswell") for w in workloads[::3] if HOST != "haswell"]
    return [pytest.param(w, m, id=f"{m}-{w.key}") for w, m in cases]


@pytest.mark.parametrize("w, mcpu", machine_cases(DENSE + GROUPED + DEPTHWISE + TRANSPOSED))
def test_equals_float64_within_rounding(w, mcpu, rng):
    check(w, default_kernel(Request(w, FP32, 32, MACHINES[mcpu])), mcpu, rng)


def small(request):
    """A kernel with a small tile, which compiles quickly."""
    family = fitting(request)[0]
    names = family.knob_space(request)[0]
    tile = {"lanes": 8, "rows": 1, "cols": 2, "blocks": 2, "chunks": 2}
    return Kernel(request, family, {name: tile[name] for name in names})


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_with_and_without_residual(activation, rng):
    request = Request(C(1, 5, 3, 4, 20, (3, 3), (1, 1), SAME, activation=activation), FP32, 32, MACHINES[HOST])
    check(request.workload, small(request), HOST, rng)
    depthwise = C(1, 5, 6, 20, 20, (3, 3), (1, 1), SAME, (1, 1), 20, True, activation)
    request = Request(depthwise, FP32, 32, MACHINES[HOST])
    check(depthwise, small(request), HOST, rng)


def test_residual_is_added_before_the_activation(rng):
    w = C(1, 5, 6, 4, 20, (3, 3), (1, 1), SAME, (1, 1), 1, True, "relu")
    check(w, default_kernel(Request(w, FP32, 32, MACHINES[HOST])), HOST, rng)


@pytest.mark.parametrize("activation", ["sigmoid", "silu", "gelu", "gelu_tanh", "tanh", "hard_swish"])
def test_activation_over_its_whole_range(activation):
    x = np.concatenate([np.linspace(-90, 90, 4001), np.linspace(-1, 1, 2001), [0.0, 1e-30, -1e-30]]).astype(np.float32)
    x = np.resize(x, (1, 1, x.size + (-x.size) % 8 + 8, 1)).reshape(1, 1, -1, 8)
    w = C(1, 1, x.shape[2], 8, 8, (1, 1), activation=activation)
    arrays = {"x": x, "weight": np.eye(8, dtype=np.float32).reshape(8, 1, 1, 8), "bias": np.zeros(8, np.float32)}
    got = run(w, small(Request(w, FP32, 32, MACHINES[HOST])), HOST, arrays)
    with np.errstate(over="ignore"):
        exact = activate(activation, x.astype(np.float64))
    # the input's own rounding, seen through exp, is x * eps
    bound = (1e-6 + 2e-7 * abs(x) ** 2 * (abs(x) < 20)) * abs(exact) + 1e-30
    assert np.all(np.isfinite(got))
    near = abs(x) <= 6
    assert np.all((abs(got - exact) <= bound)[near])
    assert np.all(abs(got - exact) <= 1e-6 * np.maximum(abs(exact), 1))


@pytest.mark.parametrize("w", [DENSE[5], DENSE[0], GROUPED[0], DEPTHWISE[3], TRANSPOSED[2]], ids=lambda w: w.key)
def test_every_candidate_is_right(w, rng):
    request = Request(w, FP32, 32, MACHINES[HOST])
    for family in fitting(request):
        space = family.knob_space(request)
        assert 1 <= len({str(k) for k in space}) == len(space) <= 10
        for knobs in space[1::4]:  # the first is the default, tested above
            check(w, Kernel(request, family, knobs), HOST, rng)


SPLIT = [DENSE[5], DENSE[0], C(1, 2, 2, 64, 200, (3, 3), (1, 1), SAME), GROUPED[0], DEPTHWISE[3], *TRANSPOSED]


@pytest.mark.parametrize("w", slow_but(SPLIT, *range(7), by_index=True), ids=lambda w: w.key)
def test_threads_split_the_work_without_changing_results(w, rng):
    arrays = make_arrays(w, rng)
    one, three = (default_kernel(Request(w, FP32, 32, MACHINES[HOST], threads)) for threads in (1, 3))
    assert three.family is one.family
    assert np.array_equal(run(w, one, HOST, arrays), run(w, Kernel(three.request, one.family, one.knobs), HOST, arrays))


@pytest.mark.parametrize(
    "target",
    [
        {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"},
        {"kind": "llvm", "mtriple": "riscv64-linux-gnu", "mcpu": "sifive-u74"},
        {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64"},
    ],
    ids=lambda t: t["mcpu"],
)
def test_compiles_for_other_machines(target):
    offered = frozenset() if "x86" in target["mtriple"] else frozenset({"neon"})
    gelu = C(1, 8, 8, 16, 8, (3, 3), (1, 1), SAME, activation="gelu")  # long code, once for each vector of a tile
    for w in (gelu, DEPTHWISE[3]):
        func = default_kernel(Request(w, FP32, 32, offered)).build()
        tvm.compile(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), target=tvm.target.Target(target))


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_depthwise_in_chunks_of_channels(chunks, rng):
    w = C(1, 5, 6, 40, 40, (3, 3), (1, 1), SAME, (1, 1), 40)
    request = Request(w, FP32, 32, MACHINES[HOST])
    check(w, Kernel(request, float_conv.DWCONV2D, {"lanes": 8, "cols": 3, "chunks": chunks}), HOST, rng)


def test_depthwise_chunks_keep_the_rows_under_a_kernel_near():
    def first(size, channels):
        w = C(1, size, size, channels, channels, (3, 3), (1, 1), SAME, (1, 1), channels)
        return float_conv.DWCONV2D.knob_space(Request(w, FP32, 32, AVX512))[0]

    assert [first(*s)["chunks"] for s in ((14, 576), (28, 192), (7, 960), (14, 64), (112, 96))] == [4, 3, 4, 1, 1]


def test_rows_and_what_they_refuse():
    assert {float_conv.CONV2D, float_conv.GCONV2D, float_conv.DWCONV2D} <= set(families())
    w = C(1, 4, 4, 8, 8, (3, 3))
    assert fitting(Request(w, FP32, 32, AVX2))[0] is float_conv.CONV2D
    assert float_conv.CONV2D not in fitting(Request(w, FP32, 8, AVX2))
    assert float_conv.CONV2D not in fitting(Request(w, Precision(8, 8), 32, AVX2))
    assert not float_conv.CONV2D.accepts(Request(C(1, 4, 4, 8, 8, (3, 3), activation="sine"), FP32, 32, AVX2))
    assert next(iter(fitting(Request(DEPTHWISE[0], FP32, 32, AVX2)))) is float_conv.DWCONV2D
    kernel = default_kernel(Request(w, FP32, 32, AVX2))
    with pytest.raises(InvalidValueError, match="needs a weight and a bias"):
        kernel.constants(Operands((None,), None))


def test_tails_use_narrower_vectors():
    assert [fit_lanes(c, 16) for c in (1, 2, 3, 7, 8, 15, 16, 33)] == [1, 2, 2, 4, 8, 8, 16, 16]
