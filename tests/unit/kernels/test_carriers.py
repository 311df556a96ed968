"""Every carrier equals numerics.reference on random and extreme operands, compiled for AVX2 and for this CPU."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import tvm

from tvm_mpq.kernels import (
    carriers,  # noqa: F401  registers the rows
    registry,
)
from tvm_mpq.kernels.registry import Request
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate, pad_channels, unpad
from tvm_mpq.schema import (
    FP32,
    ActivationWorkload,
    AddWorkload,
    ConcatWorkload,
    ConvertWorkload,
    CopyWorkload,
    MultiplyWorkload,
    Pool2dWorkload,
    Precision,
    TensorQuant,
)
from tvm_mpq.targets import features, local_row, missing_features, resolve, to_tvm

NATIVE = local_row()
CPUS = [row for row in (resolve("haswell"), NATIVE) if not missing_features(row)]
CHANNELS = (1, 3, 4, 7, 17, 33, 64)
CLAMPS = ("none", "relu", "clip:0.0:1.5")
CURVES = ("hard_swish", "hard_sigmoid", "sigmoid", "silu", "gelu", "gelu_tanh", "tanh", "leaky_relu:0.1")
NO_RANGES = Operands((None,) * 4, None)


@pytest.fixture
def rng():
    return np.random.default_rng(20240608)


class Batch:
    """Cases of one test, compiled together: one module a CPU."""

    def __init__(self):
        self.cases = []

    def __call__(self, workload, precision, out_bits, operands, inputs, rtol=0.0, atol=0.0, threads=(1,)):
        """Queue every family that fits, on every CPU, against the reference."""
        with np.errstate(all="ignore"):
            expected = evaluate(workload, precision, out_bits, operands, inputs)
        for thread_count in threads:
            everywhere = [Request(workload, precision, out_bits, features(cpu), thread_count) for cpu in CPUS]
            assert all(map(registry.fitting, everywhere)), f"no kernel for {workload.key}"
            for family in registry.fitting(everywhere[-1]):
                cpus = [cpu for cpu, r in zip(CPUS, everywhere, strict=True) if family.fits(r)]
                self.cases.append((family, everywhere[-1], cpus, operands, stored(inputs), expected, rtol, atol))

    def run(self):
        functions, names = {}, []
        for family, request, *_ in self.cases:
            key = family.name, request.workload, request.threads  # nothing else may change the code
            if key not in functions:
                functions[key] = family.build(request, {}).parse().with_attr("global_symbol", f"f{len(functions)}")
            names.append(str(functions[key].attrs["global_symbol"]))
        by_name = {str(f.attrs["global_symbol"]): f for f in functions.values()}
        for cpu in CPUS:
            chosen = {name: by_name[name] for name, case in zip(names, self.cases, strict=True) if cpu in case[2]}
            module = tvm.compile(tvm.IRModule(chosen), target=to_tvm(cpu, cores=2))
            for name, (family, request, cpus, operands, inputs, expected, rtol, atol) in zip(
                names, self.cases, strict=True
            ):
                if cpu not in cpus:
                    continue
                got = call(module[name], by_name[name], [*inputs, *family.constants(request, {}, operands)])
                if expected.dtype == np.uint8:
                    got = unpad(got, expected.shape[-1])
                assert got.dtype == expected.dtype and got.shape == expected.shape
                label = f"{family.name} on {cpu.name}, {request.threads} threads: {request.workload.key}"
                if expected.dtype == np.uint8 or rtol == 0:
                    np.testing.assert_array_equal(got, expected, err_msg=label)
                else:
                    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol, err_msg=label)


@contextlib.contextmanager
def batch():
    queue = Batch()
    yield queue
    queue.run()


def stored(inputs):
    """The physical arrays; what the padding of the channels holds is random, because it must not matter."""
    rng = np.random.default_rng(1)
    arrays = []
    for x in inputs:
        if x.dtype == np.uint8:
            channels, x = x.shape[-1], pad_channels(x)
            x[..., channels:] = rng.integers(0, 256, x[..., channels:].shape)
        arrays.append(np.ascontiguousarray(x))
    return arrays


def call(entry, func, arrays):
    """The kernel's output in its stored form; the arrays must fit the parameters and come out unchanged."""
    assert [tuple(map(int, p.shape)) for p in func.params[:-1]] == [a.shape for a in arrays]
    assert [str(p.dtype) for p in func.params[:-1]] == [str(a.dtype) for a in arrays]
    out = func.params[-1]
    result = tvm.runtime.tensor(np.full(tuple(map(int, out.shape)), 171).astype(str(out.dtype)))
    tensors = [tvm.runtime.tensor(a) for a in arrays]
    entry(*tensors, result)
    for tensor, array in zip(tensors, arrays, strict=True):
        assert np.array_equal(tensor.numpy(), array, equal_nan=array.dtype.kind == "f")
    return result.numpy()


def bytes_of(rng, shape, bits=8):
    """Integers of a tensor, a third of them at the ends of the range."""
    top = 2**bits - 1
    x = rng.integers(0, top + 1, shape)
    return np.where(rng.random(shape) < 0.33, rng.choice([0, top], shape), x).astype(np.uint8)


def floats_of(rng, shape):
    return (rng.standard_normal(shape) * 3).astype(np.float32)


def quant(bits, scale, zero_point):
    return TensorQuant(bits, float(np.float32(scale)), min(zero_point, 2**bits - 1))


def test_all_kinds_are_registered():
    covered = {(f.workload_type.kind, 32 in f.weight_bits) for f in registry.families()}
    kinds = ("pool2d", "add", "multiply", "concat", "activation", "copy", "convert")
    assert covered >= {(kind, is_float) for kind in kinds for is_float in (False, True)}


def test_add(rng):
    operands = Operands((quant(8, 0.013, 131), quant(8, 0.05, 255)), quant(8, 0.031, 9))
    with batch() as check:
        for i, channels in enumerate(CHANNELS):
            shape, activation = (1, 3, 5, channels), CLAMPS[i % len(CLAMPS)]
            a, b = bytes_of(rng, shape), bytes_of(rng, shape)
            check(AddWorkload(shape, activation), Precision(8, 8), 8, operands, [a, b])
            check(AddWorkload(shape, activation), FP32, 32, NO_RANGES, [floats_of(rng, shape), floats_of(rng, shape)])


def test_add_of_all_pairs():
    """Each pair of bytes, at scales where halves and near-halves are common."""
    with batch() as check:
        a, b = (np.ascontiguousarray(v.reshape(1, 1, 4096, 16)) for v in np.indices((256, 256)).astype(np.uint8))
        work = AddWorkload(a.shape)
        # with 24 / 37 and 2.5 / 37, hundreds of pairs tell one rounding from two, and which product is rounded
        for s_a, s_b, s_out in ((0.5, 0.25, 1.0), (24.0, 2.5, 37.0), (1e-3, 1.0, 1.0)):
            operands = Operands((quant(8, s_a, 128), quant(8, s_b, 3)), quant(8, s_out, 77))
            check(work, Precision(8, 8), 8, operands, [a, b], threads=(1, 2))


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_few_bits(rng, bits):
    with batch() as check:
        shape, precision = (2, 4, 3, 20), Precision(bits, bits)
        tensors = quant(bits, 0.4, 1), quant(bits, 0.3, 2)
        a, b = bytes_of(rng, shape, bits), bytes_of(rng, shape, bits)
        for work in (AddWorkload(shape, "relu"), MultiplyWorkload(shape, False)):
            check(work, precision, bits, Operands(tensors, quant(bits, 0.7, 2)), [a, b])
        check(ActivationWorkload(shape, "silu"), precision, bits, Operands(tensors[:1], quant(bits, 0.2, 1)), [a])
        pool = Pool2dWorkload("avg", 2, 4, 3, 20, (2, 2), (1, 1), (0, 0, 0, 0), 3, 2)
        check(pool, precision, bits, Operands(tensors[:1], tensors[1]), [a])


@pytest.mark.parametrize("activation", ["hard_swish", "tanh"])
def test_tables_after_add_and_multiply(rng, activation):
    inputs = quant(8, 0.03, 131), quant(8, 0.05, 7)
    operands = Operands(inputs, quant(8, 0.02, 9), pre_activation=quant(8, 0.041, 120))
    with batch() as check:
        for channels in (3, 33, 72):
            shape, second = (2, 3, 5, channels), (2, 1, 1, channels)
            a, b, c = (bytes_of(rng, s) for s in (shape, shape, second))
            check(AddWorkload(shape, activation), Precision(8, 8), 8, operands, [a, b])
            check(MultiplyWorkload(shape, False, activation), Precision(8, 8), 8, operands, [a, b])
            check(MultiplyWorkload(shape, True, activation), Precision(8, 8), 8, operands, [a, c])


@pytest.mark.parametrize("broadcast", [False, True])
def test_multiply(rng, broadcast):
    operands = Operands((quant(8, 0.013, 131), quant(8, 0.05, 255)), quant(8, 0.11, 200))
    with batch() as check:
        for i, channels in enumerate(CHANNELS):
            shape = (2, 3, 5, channels)
            second = (2, 1, 1, channels) if broadcast else shape
            work = MultiplyWorkload(shape, broadcast, CLAMPS[i % len(CLAMPS)])
            check(work, Precision(8, 8), 8, operands, [bytes_of(rng, shape), bytes_of(rng, second)])
            check(work, FP32, 32, NO_RANGES, [floats_of(rng, shape), floats_of(rng, second)])


def test_float_curves(rng):
    """Vector polynomials against float64: a few units in the last place, more in the far tail of gelu."""
    shape = (1, 3, 5, 7)
    x, y = floats_of(rng, shape), floats_of(rng, shape)
    with batch() as check:
        for activation in CURVES:
            check(ActivationWorkload(shape, activation), FP32, 32, NO_RANGES, [x], rtol=3e-6, atol=3e-7)
        check(AddWorkload(shape, "gelu"), FP32, 32, NO_RANGES, [x, y], rtol=3e-6, atol=3e-7)
        check(MultiplyWorkload(shape, False, "silu"), FP32, 32, NO_RANGES, [x, y], rtol=3e-6, atol=3e-7)


@pytest.mark.parametrize("activation", ["relu", "hard_swish"])
def test_activation_tables(rng, activation):
    operands = Operands((quant(8, 0.05, 100),), quant(8, 0.03, 11))
    with batch() as check:
        for shape in ((1, 3, 5, 3), (1, 1, 1, 1), (7, 10), (2, 9, 33)):
            check(ActivationWorkload(shape, activation), Precision(8, 8), 8, operands, [bytes_of(rng, shape)])


def test_activation_table_of_all_bytes():
    x = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    operands = Operands((quant(8, 0.05, 100),), quant(8, 0.03, 11))
    with batch() as check:
        check(ActivationWorkload(x.shape, "gelu"), Precision(8, 8), 8, operands, [x])


POOLS = [
    Pool2dWorkload("max", 1, 9, 9, 7, (3, 3), (2, 2), (1, 1, 1, 1), 5, 5),
    Pool2dWorkload("max", 2, 7, 5, 33, (3, 2), (2, 1), (0, 0, 0, 0), 3, 4),
    Pool2dWorkload("max", 1, 8, 7, 17, (3, 3), (2, 2), (0, 0, 0, 0), 4, 3),  # ceil_mode: past the bottom
    Pool2dWorkload("max", 1, 6, 6, 3, (5, 5), (1, 1), (2, 2, 2, 2), 6, 6),  # window loop
    Pool2dWorkload("max", 1, 5, 6, 64, (2, 2), (2, 2), (0, 0, 0, 0), 2, 3),
    Pool2dWorkload("max", 1, 4, 4, 1, (1, 1), (3, 3), (0, 0, 0, 0), 2, 2),
]
AVERAGES = [
    (1, 7, 7, 33, (7, 7), (1, 1), (0, 0, 0, 0), 1, 1),  # global
    (2, 5, 6, 3, (5, 6), (1, 1), (0, 0, 0, 0), 1, 1),
    (1, 9, 9, 7, (3, 3), (2, 2), (1, 1, 1, 1), 5, 5),
    (1, 8, 7, 17, (3, 3), (2, 2), (1, 0, 0, 1), 5, 4),  # ceil_mode past the declared padding
    (1, 6, 6, 64, (2, 3), (2, 3), (0, 0, 0, 0), 3, 2),
    (1, 4, 5, 1, (2, 2), (1, 2), (1, 1, 1, 1), 5, 3),
    (1, 17, 16, 16, (17, 16), (1, 1), (0, 0, 0, 0), 1, 1),  # more cells than a uint16 sum holds
]


def test_max_pool(rng):
    tq = quant(8, 0.1, 77)
    with batch() as check:
        for work in POOLS:
            shape = (work.batch, work.in_height, work.in_width, work.channels)
            check(work, Precision(8, 8), 8, Operands((tq,), tq), [bytes_of(rng, shape)])
            check(work, FP32, 32, NO_RANGES, [floats_of(rng, shape)])
            check(work, FP32, 32, NO_RANGES, [-np.abs(floats_of(rng, shape))])  # padding must not win


@pytest.mark.parametrize("mode", ["avg", "avg_valid"])
def test_average_pool(rng, mode):
    with batch() as check:
        for fields in AVERAGES if mode == "avg" else AVERAGES[2:6]:
            work, shape = Pool2dWorkload(mode, *fields), fields[:4]
            for output in (quant(8, 0.1, 77), quant(8, 0.043, 10)):
                check(work, Precision(8, 8), 8, Operands((quant(8, 0.1, 77),), output), [bytes_of(rng, shape)])
            full = np.full(shape, 255, np.uint8)
            check(work, Precision(8, 8), 8, Operands((quant(8, 0.1, 0),), quant(8, 0.1, 0)), [full])
            # a float sum of n cells may lose n units in the last place of the sum of absolute values
            cells = work.kernel[0] * work.kernel[1]
            check(work, FP32, 32, NO_RANGES, [floats_of(rng, shape)], rtol=1e-6, atol=cells * 6e-8 * 3)


def test_max_pool_of_an_empty_window_is_not_offered():
    work = Pool2dWorkload("max", 1, 4, 4, 16, (2, 2), (4, 4), (0, 0, 4, 4), 2, 2)
    assert not registry.fitting(Request(work, Precision(8, 8), 8, frozenset()))


def test_concat(rng):
    with batch() as check:
        for channels in ((1, 3), (17, 15), (16, 32), (3, 7, 33), (64, 64), (1, 1, 1, 1), (5,)):
            work = ConcatWorkload(6, channels)
            tensors = tuple(quant(8, 0.01 * (i + 1), 60 * i) for i in range(len(channels)))
            inputs = [bytes_of(rng, (6, c)) for c in channels]
            check(work, Precision(8, 8), 8, Operands(tensors, quant(8, 0.017, 100)), inputs)
            check(work, FP32, 32, NO_RANGES, [floats_of(rng, (6, c)) for c in channels])


def test_concat_padding_is_deterministic(rng):
    work = ConcatWorkload(3, (3, 2))
    request = Request(work, Precision(8, 8), 8, frozenset())
    operands = Operands((quant(8, 0.1, 1), quant(8, 0.1, 1)), quant(8, 0.1, 42))
    inputs = [pad_channels(bytes_of(rng, (3, c))) for c in (3, 2)]
    family = registry.fitting(request)[0]
    func = family.build(request, {}).parse()
    module = tvm.compile(tvm.IRModule({"main": func}), target=to_tvm(NATIVE))
    got = call(module["main"], func, [*inputs, *family.constants(request, {}, operands)])
    assert (got[:, 5:] == 42).all()


COPIES = [
    ((1, 4, 4, 3), (1, 2, 2, 6), (0, 0, 0, 0), (1, 2, 2, 1), (1, 2, 2, 3), (0, 0, 0, 2)),  # option A shortcut
    ((1, 8, 8, 16), (1, 4, 4, 32), (0, 0, 0, 0), (1, 2, 2, 1), (1, 4, 4, 16), (0, 0, 0, 8)),
    ((2, 5, 6, 17), (2, 9, 8, 17), (0, 0, 0, 0), (1, 1, 1, 1), (2, 5, 6, 17), (0, 1, 2, 0)),  # zero padding
    ((2, 5, 6, 17), (2, 3, 6, 17), (0, 2, 0, 0), (1, 1, 1, 1), (2, 3, 6, 17), (0, 0, 0, 0)),  # rows
    ((1, 5, 6, 40), (1, 5, 6, 7), (0, 0, 0, 30), (1, 1, 1, 1), (1, 5, 6, 7), (0, 0, 0, 0)),  # channel split
    ((1, 5, 6, 40), (1, 5, 6, 20), (0, 0, 0, 1), (1, 1, 1, 2), (1, 5, 6, 20), (0, 0, 0, 0)),  # strided channels
    ((3, 10), (3, 12), (0, 0), (1, 1), (0, 0), (0, 0)),  # only padding
    ((4, 33), (4, 33), (0, 0), (1, 1), (4, 33), (0, 0)),
    ((2, 3, 33), (1, 2, 35), (1, 0, 0), (1, 2, 1), (1, 2, 33), (0, 0, 1)),
]


def test_copy(rng):
    tq = quant(8, 0.1, 99)
    with batch() as check:
        for fields in COPIES:
            work = CopyWorkload(*fields)
            check(work, Precision(8, 8), 8, Operands((tq,), tq), [bytes_of(rng, fields[0])])
            check(work, FP32, 32, NO_RANGES, [floats_of(rng, fields[0])])


SHAPES = [(1, 5, 7, 3), (2, 6, 5, 4), (1, 4, 4, 1), (2, 3, 3, 2), (1, 1, 1, 10), (2, 5, 7, 17), (3, 33), (2, 4, 48)]


def extreme_floats(rng, shape, tq):
    """Halves of a step, values far outside, infinities, and NaN."""
    x = (rng.integers(-600, 600, shape) * np.float32(0.5) * np.float32(tq.scale)).astype(np.float32)
    special = np.float32([np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-40, -0.0])
    return np.where(rng.random(shape) < 0.1, rng.choice(special, shape), x).astype(np.float32)


@pytest.mark.parametrize("channels_first", [False, True])
def test_convert(rng, channels_first):
    with batch() as check:
        for i, shape in enumerate(s for s in SHAPES if len(s) > 2 or not channels_first):
            bits, scale = ((8, 0.1), (4, 0.75), (2, 1.0))[i % 3]
            tq = quant(bits, scale, 100)
            floats, others = extreme_floats(rng, shape, tq), floats_of(rng, shape)
            if channels_first:
                floats, others = np.moveaxis(floats, -1, 1), np.moveaxis(others, -1, 1)
            precision, integers = Precision(bits, bits), bytes_of(rng, shape, bits)
            quantize, back = (
                ConvertWorkload(shape, 32, bits, channels_first),
                ConvertWorkload(shape, bits, 32, channels_first),
            )
            check(quantize, precision, bits, Operands((None,), tq), [floats])
            check(back, precision, 32, Operands((tq,), None), [integers])
            check(ConvertWorkload(shape, 32, 32, channels_first), FP32, 32, NO_RANGES, [others])


def test_requantize(rng):
    with batch() as check:
        for i, shape in enumerate(SHAPES):
            bits, to_bits = ((8, 4), (3, 8), (8, 8))[i % 3]
            work = ConvertWorkload(shape, bits, to_bits)
            operands = Operands((quant(bits, 0.3, 50),), quant(to_bits, 0.4, 60))
            for used in {bits, to_bits}:
                check(work, Precision(used, used), to_bits, operands, [bytes_of(rng, shape, bits)])


def test_quantize_divides_truly(rng):
    """Division by a scale whose reciprocal is inexact, over many near-halves."""
    with batch() as check:
        tq = quant(8, 0.1, 0)
        x = np.nextafter(np.arange(1, 512, 2, dtype=np.float32) * np.float32(0.05), np.float32(0))
        check(ConvertWorkload((1, 16, 16), 32, 8), Precision(8, 8), 8, Operands((None,), tq), [x.reshape(1, 16, 16)])


def test_threads_give_the_same(rng):
    """Maps large enough to be split, with an uneven last vector."""
    with batch() as check:
        shape = (1, 57, 59, 33)
        tq, other = quant(8, 0.1, 100), quant(8, 0.07, 3)
        x, y, f = bytes_of(rng, shape), bytes_of(rng, shape), floats_of(rng, shape)
        p8 = Precision(8, 8)
        check(ActivationWorkload(shape, "tanh"), p8, 8, Operands((tq,), other), [x], threads=(2,))
        check(AddWorkload(shape), FP32, 32, NO_RANGES, [f, f], threads=(2,))
        pool = Pool2dWorkload("max", *shape, (3, 3), (1, 1), (1, 1, 1, 1), 57, 59)
        check(pool, p8, 8, Operands((tq,), tq), [x], threads=(2,))
        check(ConcatWorkload(57 * 59, (33, 33)), p8, 8, Operands((tq, other), tq), [v.reshape(-1, 33) for v in (x, y)])
        check(ConvertWorkload(shape, 32, 8, False), p8, 8, Operands((None,), tq), [f], threads=(2,))


def test_rounding_is_one_instruction():
    """No library call and no scalar code in the quantizing loop."""
    request = Request(ConvertWorkload((1, 56, 56, 64), 32, 8), Precision(8, 8), 8, features(resolve("haswell")))
    func = registry.fitting(request)[0].build(request, {}).parse()
    text = tvm.compile(tvm.IRModule({"main": func}), target=to_tvm(resolve("haswell"))).mod.inspect_source("s")
    assert "vdivps" in text and "nearbyint" not in text and "roundf" not in text


def test_arm_code_can_be_made():
    """The generic rows hold nothing that only x86 has."""
    shape = (1, 6, 6, 17)
    works = [
        AddWorkload(shape, "gelu"),
        MultiplyWorkload(shape, False),
        Pool2dWorkload("avg", *shape, (3, 3), (1, 1), (1, 1, 1, 1), 6, 6),
        Pool2dWorkload("max", *shape, (3, 3), (1, 1), (1, 1, 1, 1), 6, 6),
        ConcatWorkload(36, (17, 3)),
        ActivationWorkload(shape, "tanh"),
        ConvertWorkload((1, 6, 6, 3), 32, 8, True),
        ConvertWorkload(shape, 8, 32),
    ]
    functions = {}
    for i, work in enumerate(works):
        request = Request(work, Precision(8, 8), getattr(work, "to_bits", 8), frozenset({"neon"}))
        functions[f"f{i}"] = registry.fitting(request)[0].build(request, {}).parse().with_attr("global_symbol", f"f{i}")
    target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"})
    text = tvm.compile(tvm.IRModule(functions), target=target).mod.inspect_source("s")
    assert "fmla" in text and "fmaf" not in text
