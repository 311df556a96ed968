"""Recurrent layers by integer products equal their definition bit for bit, whatever the layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from mpq_testing.avx_vnni import imitated
from mpq_testing.slowly import SLOW
from tvm_mpq.errors import InvalidValueError, NoKernelError
from tvm_mpq.kernels import Kernel, Request, candidate_precisions, candidates, default_kernel
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.recurrent_bytes import recurrent_constants
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import FP32, W8A8, RecurrentWorkload, TensorQuant
from tvm_mpq.targets import features, local_row, resolve, to_tvm

FEATURES = features(local_row())
NAME = "qu8_qs8_s32_recurrent__"
BOTH = ("forward", "reverse")
LSTM, GRU = ("sigmoid", "tanh", "tanh"), ("sigmoid", "tanh")
LONGEST = 66311
"""(2^31 - 1) / (127 * 255), rounded down."""
MACHINES = [pytest.param("avx2", marks=pytest.mark.isa("avx2")), "generic"]


def operands(w: RecurrentWorkload, rng: np.random.Generator, zero: int | None = None) -> Operands:
    weight = rng.normal(0, w.hidden**-0.5, w.weight_shape).astype(np.float32)
    zero = int(rng.integers(60, 200)) if zero is None else zero
    vectors = rng.normal(0, 1, w.vectors_size).astype(np.float32)
    return Operands((None,) * 2, None, weight, vectors, state=TensorQuant(8, 0.011, zero))


def random_inputs(w: RecurrentWorkload, rng: np.random.Generator) -> list[np.ndarray]:
    shapes = [w.gates_shape, *([w.state_shape] if w.initial == "given" else [])]
    return [rng.normal(0, 1, shape).astype(np.float32) for shape in shapes]


def offered(w: RecurrentWorkload, isa: str, threads: int = 1) -> list[Kernel]:
    found = candidates(Request(w, W8A8, 32, FEATURES, threads))
    return [kernel for kernel in found if kernel.family.name == NAME + isa]


def compare(
    kernels: list[Kernel], given: Operands, inputs: list[np.ndarray], target: tvm.target.Target | None = None
) -> np.ndarray:
    """The definition's result, to which those of all kernels are equal."""
    request = kernels[0].request
    want = evaluate(request.workload, W8A8, 32, given, inputs)
    functions = {f"f{i}": k.build().with_attr("global_symbol", f"f{i}") for i, k in enumerate(kernels)}
    library = tvm.compile(tvm.IRModule(functions), target=target or to_tvm(local_row()))
    for name, kernel in zip(functions, kernels, strict=True):
        arrays = [*inputs, *kernel.constants(given), np.full(want.shape, 7, np.float32)]
        assert [(a.shape, str(a.dtype)) for a in arrays] == list(kernel.buffers)
        tensors = [tvm.runtime.tensor(a) for a in arrays]
        library[name](*tensors)
        np.testing.assert_array_equal(tensors[-1].numpy(), want, err_msg=str(kernel.knobs))
    return want


@pytest.mark.parametrize("isa", MACHINES)
def test_every_candidate(isa: str, rng: np.random.Generator) -> None:
    """Hidden units that fill no vector, sequences that fill no tile, weights stored either way, at two threads."""
    w = RecurrentWorkload("rnn", 4, 5, 41, BOTH, ("relu",), initial="given", emits_states=True)
    kernels = offered(w, isa, threads=2)
    assert {k.knobs["stored"] for k in kernels} == {"int8", "int16"} and len(kernels) > 4
    compare(kernels, operands(w, rng), random_inputs(w, rng))


def layers() -> st.SearchStrategy[RecurrentWorkload]:
    """Of every cell, direction, start and variant."""
    cells = {
        "lstm": st.fixed_dictionaries(
            {"peepholes": st.booleans(), "coupled": st.booleans(), "cell_clip": st.sampled_from([0.0, 0.2])}
        ),
        "gru": st.fixed_dictionaries({"reset_after": st.booleans()}),
        "rnn": st.just({}),
    }
    acts = {"lstm": [LSTM, ("sigmoid", "relu", "leaky_relu:0.2")], "gru": [GRU, ("clip:-0.1:0.9", "relu")]}
    acts["rnn"] = [("tanh",), ("relu",), ("leaky_relu:0.3",)]

    @st.composite
    def draw_layer(draw: st.DrawFn) -> RecurrentWorkload:
        cell, batch = draw(st.sampled_from(list(cells))), draw(st.sampled_from([1, 2, 5]))
        steps = draw(st.integers(1, 5))
        lengths = draw(st.none() | st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
        return RecurrentWorkload(
            cell,
            steps,
            batch,
            draw(st.sampled_from([8, 9, 17, 31, 64, 128])),
            draw(st.sampled_from([("forward",), ("reverse",), BOTH])),
            draw(st.sampled_from(acts[cell])),
            initial=draw(st.sampled_from(["zero", "constant", "given"])),
            emits_states=draw(st.booleans()),
            lengths=tuple(lengths or ()),
            clip=draw(st.sampled_from([0.0, 0.7])),
            **draw(cells[cell]),
        )

    return draw_layer()


@pytest.mark.isa("avx2")
@settings(max_examples=6, deadline=None)
@given(w=layers(), seed=st.integers(0, 99))
def test_any_layer(w: RecurrentWorkload, seed: int) -> None:
    rng = np.random.default_rng(seed)
    compare(offered(w, "avx2")[-1:], operands(w, rng), random_inputs(w, rng))


@settings(max_examples=3, deadline=None)
@given(w=layers(), hidden=st.sampled_from([1, 3, 17]), seed=st.integers(0, 99))
def test_any_layer_on_any_cpu(w: RecurrentWorkload, hidden: int, seed: int) -> None:
    """Layers of one unit too, which no vector fits."""
    rng, w = np.random.default_rng(seed), dataclasses.replace(w, hidden=hidden)
    compare(offered(w, "generic")[-1:], operands(w, rng), random_inputs(w, rng))


@pytest.mark.parametrize(
    ("isa", "zero"),
    [
        pytest.param("avx2", 0, marks=pytest.mark.isa("avx2")),
        ("generic", 255),
        pytest.param("avx2", 255, marks=[SLOW, pytest.mark.isa("avx2")]),
        pytest.param("generic", 0, marks=SLOW),
    ],
)
def test_both_ends(isa: str, zero: int, rng: np.random.Generator) -> None:
    """States as far from their zero point as they can be, and further; weights of +-127; gates that saturate."""
    w = RecurrentWorkload("rnn", 3, 2, 40, ("forward",), ("leaky_relu:1.0",), initial="given")
    weight = rng.choice([-1.0, 1.0], w.weight_shape).astype(np.float32)
    far = 300.0 if zero == 0 else -300.0
    given = Operands((None,) * 2, None, weight, np.zeros(1, np.float32), state=TensorQuant(8, 1.0, zero))
    want = compare(offered(w, isa), given, [np.zeros(w.gates_shape, np.float32), np.full(w.state_shape, far, "f4")])
    sums = weight[0].sum(-1) * np.sign(far) * 255
    np.testing.assert_allclose(want[0, 0, 0], sums, rtol=1e-6)


@pytest.mark.parametrize("isa", [pytest.param("avx2", marks=[SLOW, pytest.mark.isa("avx2")]), "generic"])
def test_cell_states_end_at_their_bound(isa: str, rng: np.random.Generator) -> None:
    """Either end is met exactly, from a start that lies beyond both; a bound that is never reached changes nothing."""
    w = RecurrentWorkload("lstm", 3, 2, 24, BOTH, LSTM, initial="given", emits_states=True)
    given, (gates, state) = operands(w, rng), random_inputs(w, rng)
    inputs, bound = [20 * gates, 9 * state], np.float32(0.3)
    c = compare(offered(dataclasses.replace(w, cell_clip=float(bound)), isa), given, inputs)[-1]
    assert (c == bound).any() and (c == -bound).any() and (np.abs(c) < bound).any() and (np.abs(c) <= bound).all()
    far = compare(offered(dataclasses.replace(w, cell_clip=3e38), isa), given, inputs)
    np.testing.assert_array_equal(far, evaluate(w, W8A8, 32, given, inputs))


@pytest.mark.parametrize("isa", MACHINES)
def test_what_is_not_finite_stays_so(isa: str) -> None:
    """As in floats: infinite inputs saturate, NaN stays in its own unit, and its code is the least."""
    w = RecurrentWorkload("lstm", 2, 1, 8, ("forward",), LSTM)
    gates = np.zeros(w.gates_shape, np.float32)
    gates[0, 0, :3] = np.nan, np.inf, -np.inf
    gates[0, 0, 24:27] = 1.0
    given = operands(w, np.random.default_rng(0))
    want = compare(offered(w, isa), given, [gates])
    assert np.isnan(want[:, 0, 0, 0]).all() and np.isfinite(want[:, 0, 0, 1:]).all()


def test_longer_sums_are_refused() -> None:
    w = RecurrentWorkload("rnn", 1, 1, LONGEST + 1, ("forward",), ("tanh",))
    with pytest.raises(NoKernelError, match=rf"adds up {LONGEST + 1} products, int32 holds {LONGEST}; take .* fp32"):
        default_kernel(Request(w, W8A8, 32, FEATURES))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_definition_is_near_that_of_floats(cell: str, rng: np.random.Generator) -> None:
    w = RecurrentWorkload(cell, 12, 1, 32, ("forward",), LSTM if cell == "lstm" else GRU)
    weight = rng.normal(0, w.hidden**-0.5, w.weight_shape).astype(np.float32)
    given = Operands((None,), None, weight, np.zeros(1, np.float32), state=TensorQuant(8, 2 / 255, 128))
    inputs = random_inputs(w, rng)
    want, got = evaluate(w, FP32, 32, given, inputs), evaluate(w, W8A8, 32, given, inputs)
    assert 1e-5 < np.linalg.norm(got - want) / np.linalg.norm(want) < 0.01


@pytest.mark.parametrize(("target", "isa"), [("cascadelake", "avx512vnni"), ("alderlake", "avxvnni")])
def test_products_are_the_machines(target: str, isa: str) -> None:
    found = resolve(target)
    w = RecurrentWorkload("gru", 2, 1, 32, ("forward",), GRU, reset_after=True)
    kernel = default_kernel(Request(w, W8A8, 32, features(found)))
    assert kernel.family.name == NAME + isa
    text = str(tvm.compile(tvm.IRModule({"main": kernel.build()}), target=to_tvm(found)).mod.inspect_source("s"))
    wide = "%zmm" if isa == "avx512vnni" else "%ymm"
    assert any("vpdpbusd" in line and wide in line for line in text.splitlines())


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_avx_vnni_equals_the_definition(cell: str, rng: np.random.Generator) -> None:
    """Whose states are bytes, so that the zero point enters as an offset; h fills no four."""
    found = resolve("alderlake")
    w = RecurrentWorkload(cell, 3, 2, 27, BOTH, LSTM if cell == "lstm" else GRU, initial="constant")
    with imitated():
        kernel = default_kernel(Request(w, W8A8, 32, features(found)))
        compare([kernel], operands(w, rng), random_inputs(w, rng), to_tvm(found))


def test_who_is_offered_8_bits() -> None:
    """Where floats are as fast, or units too few for a vector, a plan that names 8 bits still runs."""
    w = RecurrentWorkload("lstm", 2, 1, 64, ("forward",), LSTM)
    for name, wanted in (("haswell", [FP32, W8A8]), ("x86-64", [FP32]), ("cortex-a72", [FP32])):
        isa = features(resolve(name))
        assert candidate_precisions(w, isa) == wanted, name
        assert default_kernel(Request(w, W8A8, 32, isa)).family.name.startswith(NAME)
    few = dataclasses.replace(w, hidden=7)
    assert candidate_precisions(few, features(resolve("haswell"))) == [FP32]


def test_refusals(rng: np.random.Generator) -> None:
    w = RecurrentWorkload("gru", 2, 1, 8, ("forward",), GRU)
    given = operands(w, rng)
    with pytest.raises(NoKernelError, match=r"no kernel for recurrent\("):  # its tensors are floats at any precision
        default_kernel(Request(w, W8A8, 8, FEATURES))
    with pytest.raises(InvalidValueError, match="needs the range of its state"):
        recurrent_constants(w, dataclasses.replace(given, state=None))
    with pytest.raises(InvalidValueError, match="needs a weight"):
        recurrent_constants(w, Operands((None,), None, state=given.state))
