"""Recurrent layers: every candidate of every cell and variant against the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm

from tvm_mpq.errors import InvalidValueError, NoKernelError
from tvm_mpq.kernels import Request, candidates, default_kernel
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate
from tvm_mpq.schema import FP32, W8A8, Precision, RecurrentWorkload, Workload
from tvm_mpq.targets import features, local_row, to_tvm_attrs

FEATURES = features(local_row())
TARGET = tvm.target.Target(to_tvm_attrs(local_row(), 2))
BOTH = ("forward", "reverse")
LSTM, GRU = ("sigmoid", "tanh", "tanh"), ("sigmoid", "tanh")
VARIANTS = {
    "lstm": RecurrentWorkload("lstm", 3, 1, 40, ("forward",), LSTM),
    "lstm_peepholes": RecurrentWorkload(
        "lstm", 4, 5, 19, BOTH, LSTM, initial="given", emits_states=True, peepholes=True, clip=0.8
    ),
    "lstm_lengths": RecurrentWorkload(
        "lstm", 4, 3, 3, ("reverse",), LSTM, initial="constant", emits_states=True, coupled=True, lengths=(4, 0, 3)
    ),
    "lstm_cell_clip": RecurrentWorkload(
        "lstm", 4, 2, 21, BOTH, LSTM, initial="given", emits_states=True, peepholes=True, cell_clip=0.3
    ),
    "gru": RecurrentWorkload("gru", 4, 2, 33, BOTH, GRU, emits_states=True),
    "gru_reset_after": RecurrentWorkload("gru", 3, 1, 17, BOTH, GRU, initial="given", reset_after=True),
    "rnn": RecurrentWorkload("rnn", 4, 3, 1, BOTH, ("leaky_relu:0.2",), initial="constant", lengths=(2, 4, 1)),
}


def operands_of(w: RecurrentWorkload, rng: np.random.Generator) -> Operands:
    weight = rng.normal(0, w.hidden**-0.5, w.weight_shape).astype(np.float32)
    return Operands((None,), None, weight, rng.normal(0, 1, w.vectors_size).astype(np.float32))


@pytest.mark.parametrize("w", VARIANTS.values(), ids=VARIANTS)
def test_every_candidate(w: RecurrentWorkload, rng: np.random.Generator) -> None:
    operands = operands_of(w, rng)
    shapes = [w.gates_shape, *([w.state_shape] if w.initial == "given" else [])]
    inputs = [rng.normal(0, 1, shape).astype(np.float32) for shape in shapes]
    want = evaluate(w, FP32, 32, operands, inputs)
    kernels = list(candidates(Request(w, FP32, 32, FEATURES)))
    functions = {f"f{i}": k.build().with_attr("global_symbol", f"f{i}") for i, k in enumerate(kernels)}
    library = tvm.compile(tvm.IRModule(functions), target=TARGET)
    for name, kernel in zip(functions, kernels, strict=True):
        out = tvm.runtime.tensor(np.full(w.out_shape, 7, np.float32))
        library[name](*map(tvm.runtime.tensor, [*inputs, *kernel.constants(operands)]), out)
        # each step rounds a sum of `hidden` products; what a step is off by enters the next one
        bound = w.steps * (w.hidden + 8) * 6e-8 * max(1.0, float(np.abs(want).max()))
        np.testing.assert_allclose(out.numpy(), want, rtol=0, atol=bound, err_msg=str(kernel.knobs))


def test_two_threads_take_a_direction_each(rng: np.random.Generator) -> None:
    w = RecurrentWorkload("gru", 8, 1, 128, BOTH, GRU, reset_after=True)
    operands, gates = operands_of(w, rng), rng.normal(0, 1, w.gates_shape).astype(np.float32)
    results: list[Any] = []
    for threads in (1, 2):
        kernel = default_kernel(Request(w, FP32, 32, FEATURES, threads))
        assert ("T.parallel" in kernel.build().script()) == (threads == 2)
        library = tvm.compile(tvm.IRModule({"main": kernel.build()}), target=TARGET)
        out = tvm.runtime.tensor(np.zeros(w.out_shape, np.float32))
        library["main"](*map(tvm.runtime.tensor, [gates, *kernel.constants(operands)]), out)
        results.append(out.numpy())
    np.testing.assert_array_equal(*results)


def test_refusals_and_round_trip(rng: np.random.Generator) -> None:
    w = VARIANTS["lstm_lengths"]
    assert Workload.from_json(w.to_json()) == w
    with pytest.raises(NoKernelError, match=r"no kernel for recurrent\("):
        default_kernel(Request(w, W8A8, 8, FEATURES))
    for precision, bits in (("w8a8", 8), ("w4a8", 32)):
        with pytest.raises(InvalidValueError, match="run at w8a8 or in fp32"):
            evaluate(w, Precision.parse(precision), bits, operands_of(w, rng), [np.zeros(w.gates_shape, np.float32)])
    with pytest.raises(InvalidValueError, match="needs a weight"):
        default_kernel(Request(w, FP32, 32, FEATURES)).constants(Operands((None,), None))
