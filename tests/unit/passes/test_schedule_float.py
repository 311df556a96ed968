"""ScheduleFloat: same results as the unscheduled module, faster, and nobody else's functions touched."""

import functools
import math
import re

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op
from tvm.target import codegen

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.passes.schedule_float import ScheduleFloat
from tvm_mpq.passes.vector_math import replace_math_calls
from tvm_mpq.targets import features, local_row, to_tvm

TARGET = to_tvm(local_row())
PLAIN = tvm.target.Target({"kind": "llvm", "opt-level": 0})  # quick to compile, for what others are compared with
FEATURES = features(local_row())
EPS = np.finfo(np.float32).eps


def lowered(build, *shapes):
    """A Relax module with one function over float32 inputs, legalized and fused."""
    builder = relax.BlockBuilder()
    inputs = [relax.Var(f"p{n}", relax.TensorType(shape, "float32")) for n, shape in enumerate(shapes)]
    with builder.function("main", inputs):
        with builder.dataflow():
            out = builder.emit_output(build(builder, *inputs))
        builder.emit_func_output(out)
    steps = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    return tvm.transform.Sequential(steps)(builder.get())


def machine(mod, target=TARGET):
    return relax.VirtualMachine(tvm.compile(mod, target=target), tvm.cpu())


def data(shapes):
    rng = np.random.default_rng(3)
    return [tvm.runtime.tensor(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


# name: (graph, input shapes, length of the longest sum)
CASES = {
    "softmax_prime_row": (lambda b, x: op.nn.softmax(x, -1), [(1, 3, 17, 197)], 197),
    "softmax_even_row": (lambda b, x: op.nn.softmax(x, -1), [(2, 640)], 640),
    "softmax_short_row": (lambda b, x: op.nn.softmax(x, -1), [(3, 10)], 10),
    "log_softmax": (lambda b, x: op.nn.log_softmax(x, -1), [(4, 1000)], 1000),
    "layer_norm": (lambda b, x, g, h: op.nn.layer_norm(x, g, h, [-1]), [(1, 19, 192), (192,), (192,)], 192),
    "layer_norm_odd": (lambda b, x, g, h: op.nn.layer_norm(x, g, h, [-1]), [(1, 19, 45), (45,), (45,)], 45),
    "layer_norm_two_axes": (
        lambda b, x, g, h: op.nn.layer_norm(x, g, h, [-2, -1]), [(4, 6, 40), (6, 40), (6, 40)], 240,
    ),
    "add_gelu": (lambda b, x, y: op.nn.gelu(b.emit(op.add(x, y))), [(1, 37, 65), (65,)], 2),
    "add_relu": (lambda b, x, y: op.nn.relu(b.emit(op.add(x, y))), [(1, 31, 37, 33), (1, 31, 37, 33)], 2),
    "silu": (lambda b, x: op.nn.silu(x), [(5, 7, 3)], 2),
    "tanh": (lambda b, x: op.tanh(x), [(5, 7, 3)], 2),
    "transpose": (lambda b, x: op.permute_dims(x, [0, 2, 3, 1]), [(1, 33, 40, 30)], 1),
    "mean_map": (lambda b, x: op.mean(x, [1, 2]), [(1, 9, 9, 70)], 81),
    "mean_map_nchw": (lambda b, x: op.mean(x, [2, 3]), [(1, 70, 7, 7)], 49),
    "sum_row": (lambda b, x: op.sum(x, [-1]), [(40, 997)], 997),
    "mean_row": (lambda b, x: op.mean(x, [-1]), [(1, 40, 640)], 640),
    "max_row": (lambda b, x: op.max(x, [-1]), [(40, 997)], 1),
    "sum_all": (lambda b, x: op.sum(x), [(9, 100)], 900),
    "variance": (lambda b, x: op.variance(x, [-1]), [(8, 333)], 333),
    "max_pool": (
        lambda b, x: op.nn.max_pool2d(x, (3, 3), (2, 2), (1, 1), layout="NHWC"), [(1, 31, 31, 19)], 1,
    ),
    "avg_pool": (
        lambda b, x: op.nn.avg_pool2d(x, (7, 7), (7, 7), layout="NHWC"), [(1, 14, 14, 72)], 49,
    ),
    "matmul_padded": (lambda b, x, y: op.matmul(x, y), [(1, 3, 17, 19), (1, 3, 19, 37)], 19),
    "matmul_exact": (lambda b, x, y: op.matmul(x, y), [(48, 30), (30, 64)], 30),
    "matmul_vector": (lambda b, x, y: op.matmul(x, y), [(1, 30), (30, 64)], 30),
    "matmul_transposed": (
        lambda b, x, y: op.matmul(x, b.emit(op.permute_dims(y, [0, 2, 1]))), [(3, 33, 16), (3, 35, 16)], 16,
    ),
    "concat": (lambda b, x, y: op.concat([x, y], -1), [(1, 30, 30, 32), (1, 30, 30, 16)], 1),
    "strided_slice": (lambda b, x: op.strided_slice(x, [1, 2], [0, 0], [9, 9], [2, 2]), [(1, 9, 9, 5)], 1),
    "resize2d": (lambda b, x: op.image.resize2d(x, (14, 18), layout="NHWC"), [(1, 7, 9, 5)], 4),
    "pad": (lambda b, x: op.nn.pad(x, [0, 0, 1, 2, 2, 1, 0, 0]), [(1, 5, 6, 16)], 1),
    "conv2d_nchw": (lambda b, x, w: op.nn.conv2d(x, w, padding=(1, 1)), [(1, 5, 15, 15), (6, 5, 3, 3)], 45),
    "argmax": (lambda b, x: op.argmax(x, -1), [(8, 100)], 1),
}  # fmt: skip


@functools.cache
def unscheduled(name):
    """The module of a case and what it computes of `data`."""
    build, shapes, _ = CASES[name]
    mod = lowered(build, *shapes)
    return mod, machine(mod, PLAIN)["main"](*data(shapes)).numpy()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("parallel_elements", [1, 10**9], ids=["parallel", "serial"])
def test_outputs_equal_the_unscheduled_module(name, parallel_elements):
    _, shapes, length = CASES[name]
    mod, expected = unscheduled(name)
    scheduled = ScheduleFloat(features=FEATURES, parallel_elements=parallel_elements)(mod)
    expected = expected.astype(np.float64)
    got = machine(scheduled)["main"](*data(shapes)).numpy()
    # each of the `length` roundings of a sum, and a few of the functions around it
    scale = np.maximum(abs(expected), abs(expected).max() * 0.1 if length > 1 else 0)
    assert got.shape == expected.shape
    assert np.all(abs(got - expected) <= (length + 8) * EPS * scale + 1e-30)


@pytest.mark.parametrize("features", [frozenset({"avx", "avx2"}), frozenset({"neon"})], ids=["avx2", "neon"])
@pytest.mark.parametrize("name", ["softmax_prime_row", "matmul_padded", "avg_pool"])
def test_other_vector_widths(name, features):
    _, shapes, length = CASES[name]
    mod, expected = unscheduled(name)
    got = machine(ScheduleFloat(features=features)(mod))["main"](*data(shapes)).numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=(length + 8) * EPS * abs(expected).max())


@pytest.mark.parametrize("name", ["softmax_even_row", "matmul_padded", "concat", "argmax"])
def test_second_run_changes_nothing_and_input_stays(name):
    build, shapes, _ = CASES[name]
    mod = lowered(build, *shapes)
    before = mod.script()
    once = ScheduleFloat(features=FEATURES)(mod)
    assert mod.script() == before
    assert once.script() != before
    tvm.ir.assert_structural_equal(ScheduleFloat(features=FEATURES)(once), once)


def test_scheduled_functions_and_attributes_are_left_alone():
    mod = lowered(CASES["add_relu"][0], *CASES["add_relu"][1])
    (name,) = [g for g, f in mod.functions_items() if isinstance(f, tvm.tirx.PrimFunc)]
    own = mod[name].with_attr("tirx.is_scheduled", True)
    functions = {**dict(mod.functions_items()), name: own}
    after = ScheduleFloat(features=FEATURES)(tvm.IRModule(functions))
    tvm.ir.assert_structural_equal(after[name], own)
    scheduled = ScheduleFloat(features=FEATURES)(mod)
    for key, value in mod[name].attrs.items():
        assert scheduled[name].attrs[key] == value
    assert scheduled[name].attrs["tirx.is_scheduled"]


def packed_share(mod, target):
    """How much of the floating-point arithmetic in the machine code is on vectors."""

    def sources(module):
        yield module.inspect_source("asm") if module.kind == "llvm" else ""
        for part in module.imports:
            yield from sources(part)

    text = "".join(sources(tvm.compile(mod, target=target).mod))
    found = [len(re.findall(rf"\bv(?:add|sub|mul|div|max|fn?m(?:add|sub)\d+){kind}\b", text)) for kind in ("ps", "ss")]
    return found[0] / sum(found)


@pytest.mark.parametrize(
    "build, shapes",
    [
        (lambda b, x: op.nn.softmax(x, -1), [(1, 197, 591)]),
        (lambda b, x, g, h: op.nn.layer_norm(x, g, h, [-1]), [(1, 197, 192), (192,), (192,)]),
        (lambda b, x, y: op.matmul(x, y), [(96, 128), (128, 64)]),
    ],
    ids=["softmax", "layer_norm", "matmul"],
)
def test_sums_are_vectors_where_llvm_alone_leaves_scalars(build, shapes):
    target = tvm.target.Target({"kind": "llvm", "mcpu": "znver4", "mtriple": "x86_64-linux-gnu"})
    mod = lowered(build, *shapes)
    scheduled = ScheduleFloat(features=frozenset(codegen.llvm_get_cpu_features(target)))(mod)
    assert packed_share(scheduled, target) > 0.7 > 0.6 > packed_share(mod, target)


def test_math_calls_over_their_range():
    x = np.concatenate([np.linspace(-12, 12, 4000), [0.0, 1e-30, -1e-30]]).astype(np.float32)
    wide = x.astype(np.float64)
    erf = np.vectorize(math.erf)(wide)
    exact = {op.exp: np.exp(wide), op.tanh: np.tanh(wide), op.sigmoid: 1 / (1 + np.exp(-wide)), op.erf: erf}
    for build, expected in exact.items():
        mod = lowered(lambda b, x, build=build: build(x), x.shape)
        (name,) = [g for g, f in mod.functions_items() if isinstance(f, tvm.tirx.PrimFunc)]
        replaced = replace_math_calls(mod[name])
        assert not any(f"T.{word}(" in replaced.script() for word in ("exp", "tanh", "sigmoid", "erf"))
        with_it = tvm.IRModule({**dict(mod.functions_items()), name: replaced})
        got = machine(with_it)["main"](tvm.runtime.tensor(x)).numpy()
        assert np.all(abs(got - expected) <= 1e-6 * abs(expected)), build


def test_function_without_blocks_is_only_marked():
    func = tvm.script.from_source(
        "# from tvm.script import tirx as T\n@T.prim_func(s_tir=True)\n"
        'def f(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):\n'
        '    T.func_attr({"global_symbol": "f", "tirx.noalias": True})\n'
        "    for i in range(8):\n        y[i] = x[i] + T.float32(1)\n"
    )
    after = ScheduleFloat(features=FEATURES)(tvm.IRModule({"f": func}))["f"]
    tvm.ir.assert_structural_equal(after, func.with_attr("tirx.is_scheduled", True))


def test_refuses_a_threshold_below_one():
    with pytest.raises(InvalidValueError, match="parallel_elements must be 1 or more"):
        ScheduleFloat(parallel_elements=0)


@pytest.mark.parametrize("keepdims", [False, True])
def test_a_mean_is_done_row_by_row(keepdims):
    """Also where no axis is left behind the rows: all rows' partial sums at once would not stay in the caches."""
    mod = ScheduleFloat(features=FEATURES)(lowered(lambda b, x: op.mean(x, [-1], keepdims), (2, 20, 640)))
    (func,) = (f for f in mod.functions.values() if isinstance(f, tvm.tirx.PrimFunc))
    body = func.body.block.body
    assert isinstance(body, tvm.tirx.For) and int(body.extent) == 40
