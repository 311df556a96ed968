"""FuseAttention: the same numbers from one kernel, whichever way attention is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op

from tvm_mpq.kernels.frames import attention
from tvm_mpq.passes.fuse_attention import FuseAttention
from tvm_mpq.passes.realize import finish
from tvm_mpq.targets import features, local_row, to_tvm_attrs

FEATURES = features(local_row())
TARGET = tvm.target.Target(to_tvm_attrs(local_row(), 1))
EPS = float(np.finfo(np.float32).eps)


def joined(emit: Any, x: relax.Var, heads: int, *, scale: str = "left", mask: bool = False) -> relax.Expr:
    """Attention of a [batch, tokens, 3 * width] projection."""
    batch, tokens, width = (int(d) for d in x.ty.shape)
    depth = width // 3 // heads
    split = emit(op.permute_dims(emit(op.reshape(x, (batch, tokens, 3, heads, depth))), (2, 0, 3, 1, 4)))
    q, k, v = (emit(op.squeeze(emit(op.strided_slice(split, [0], [i], [i + 1])), [0])) for i in range(3))
    k = emit(op.permute_dims(k, (0, 1, 3, 2)))
    factor = relax.const(np.float32(depth**-0.5))
    if scale == "left":
        q = emit(op.multiply(q, factor))
    if scale == "both":  # as torch exports scaled_dot_product_attention
        root = relax.const(np.float32(depth**-0.25))
        q, k = emit(op.multiply(q, root)), emit(op.multiply(root, k))
    scores = emit(op.matmul(q, k))
    if scale == "behind":
        scores = emit(op.divide(scores, relax.const(np.float32(depth**0.5))))
    if mask:
        scores = emit(op.add(scores, relax.const(np.zeros((tokens, tokens), np.float32))))
    result = emit(op.matmul(emit(op.nn.softmax(scores, -1)), v))
    result = emit(op.permute_dims(result, (0, 2, 1, 3)))
    return emit(op.reshape(result, (batch, tokens, heads * depth)))


def three(emit: Any, q: relax.Var, k: relax.Var, v: relax.Var) -> relax.Expr:
    """q, k, v of their own, three axes, result as it comes."""
    scores = emit(op.matmul(q, emit(op.permute_dims(k, (0, 2, 1)))))
    return emit(op.matmul(emit(op.nn.softmax(scores, -1)), v))


def stored_by_rows(emit: Any, q: relax.Var, k: relax.Var, v: relax.Var) -> relax.Expr:
    """k comes transposed already."""
    return emit(op.matmul(emit(op.nn.softmax(emit(op.matmul(q, k)), -1)), v))


def module(build: Callable[..., relax.Expr], *shapes: tuple[int, ...]) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    inputs = [relax.Var(f"x{i}", relax.TensorType(s, "float32")) for i, s in enumerate(shapes)]
    with builder.function("main", inputs):
        with builder.dataflow():
            result = builder.emit_output(build(builder.emit, *inputs))
        builder.emit_func_output(result)
    return builder.get()


def run(mod: tvm.IRModule, arrays: list[np.ndarray]) -> np.ndarray:
    machine = relax.VirtualMachine(tvm.compile(mod, target=TARGET), tvm.cpu())
    return np.asarray(machine["main"](*[tvm.runtime.tensor(a) for a in arrays]).numpy())


def kernels(mod: tvm.IRModule) -> int:
    return sum(isinstance(f, tvm.tirx.PrimFunc) for f in mod.functions.values())


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    """In float64, over the last two axes; k [..., keys, features]."""
    scores = scale * q.astype(np.float64) @ np.swapaxes(k, -1, -2)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True) @ v)


def of_joined(heads: int, scaled: bool = True) -> Callable[..., np.ndarray]:
    def compute(x: np.ndarray) -> np.ndarray:
        batch, tokens, width = x.shape
        q, k, v = x.reshape(batch, tokens, 3, heads, -1).transpose(2, 0, 3, 1, 4)
        result = reference(q, k, v, (width // 3 // heads) ** -0.5 if scaled else 1.0)
        return result.transpose(0, 2, 1, 3).reshape(batch, tokens, -1)

    return compute


def of_three(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    return reference(q, k, v, 1.0)


def of_rows(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    return reference(q, np.swapaxes(k, -1, -2), v, 1.0)


Case = tuple[Callable[..., relax.Expr], Callable[..., np.ndarray], list[tuple[int, ...]]]
CASES: dict[str, Case] = {
    "one vector": (lambda e, x: joined(e, x, 1), of_joined(1), [(1, 16, 48)]),
    "tails": (lambda e, x: joined(e, x, 3), of_joined(3), [(1, 37, 3 * 3 * 24)]),
    "scale behind, batches": (lambda e, x: joined(e, x, 2, scale="behind"), of_joined(2), [(2, 19, 3 * 2 * 16)]),
    "no scale, many features": (
        lambda e, x: joined(e, x, 1, scale="none"),
        of_joined(1, scaled=False),
        [(1, 33, 3 * 80)],
    ),
    "scale on both": (lambda e, x: joined(e, x, 1, scale="both"), of_joined(1), [(1, 20, 3 * 16)]),
    "few keys, few features": (lambda e, x: joined(e, x, 2), of_joined(2), [(1, 5, 3 * 2 * 8)]),
    "other keys than queries": (three, of_three, [(3, 7, 20), (3, 50, 20), (3, 50, 36)]),
    "keys by rows": (stored_by_rows, of_rows, [(2, 9, 16), (2, 16, 21), (2, 21, 18)]),
    "one query": (three, of_three, [(2, 1, 16), (2, 40, 16), (2, 40, 16)]),
}
RUNS = [(name, 1) for name in CASES] + [("tails", 2), ("scale behind, batches", 2), ("other keys than queries", 2)]


def check(name: str, features: frozenset[str], threads: int, rng: np.random.Generator) -> None:
    build, wanted, shapes = CASES[name]
    arrays = [rng.normal(0, 1, s).astype(np.float32) for s in shapes]
    fused = FuseAttention(features=features, threads=threads)(module(build, *shapes))
    assert kernels(fused) == 1
    assert not any(word in fused["main"].script() for word in ("matmul", "softmax"))
    want = wanted(*arrays)
    got = run(finish(fused, features, threads=threads), arrays)
    # scores of up to 80 terms, in front of exp: their rounding errors become relative errors of the weights
    np.testing.assert_allclose(got, want, rtol=0, atol=200 * EPS * np.abs(want).max())


@pytest.mark.parametrize(("name", "threads"), RUNS)
def test_equals_the_definition(
    name: str, threads: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_PARALLEL_FROM", 0)
    check(name, FEATURES, threads, rng)


@pytest.mark.parametrize("features", [frozenset({"avx", "avx2"}), frozenset()], ids=["avx2", "generic"])
def test_narrower_vectors(features: frozenset[str], rng: np.random.Generator) -> None:
    check("tails", features, 1, rng)


def test_large_scores_do_not_overflow(rng: np.random.Generator) -> None:
    mod = module(three, (1, 6, 16), (1, 18, 16), (1, 18, 16))
    arrays = [rng.normal(0, 30, s).astype(np.float32) for s in ((1, 6, 16), (1, 18, 16), (1, 18, 16))]
    got = run(FuseAttention(features=FEATURES)(mod), arrays)
    want = of_three(*arrays)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-3 * np.abs(want).max())


def test_what_is_left_alone() -> None:
    masked = module(lambda e, x: joined(e, x, 2, mask=True), (1, 8, 3 * 2 * 8))
    assert FuseAttention(features=FEATURES)(masked).same_as(masked)

    def shared(emit: Any, q: relax.Var, k: relax.Var, v: relax.Var) -> relax.Expr:
        weights = emit(op.nn.softmax(emit(op.matmul(q, k)), -1))
        return emit(op.add(emit(op.matmul(weights, v)), weights))

    shapes = (2, 8, 8), (2, 8, 8), (2, 8, 8)
    assert kernels(FuseAttention(features=FEATURES)(module(shared, *shapes))) == 0

    def along_rows(emit: Any, q: relax.Var, k: relax.Var, v: relax.Var) -> relax.Expr:
        return emit(op.matmul(emit(op.nn.softmax(emit(op.matmul(q, k)), 1)), v))

    assert kernels(FuseAttention(features=FEATURES)(module(along_rows, *shapes))) == 0


def test_input_stays_and_a_second_run_changes_nothing() -> None:
    mod = module(lambda e, x: joined(e, x, 2), (1, 9, 96))
    before = mod.script()
    once = FuseAttention(features=FEATURES)(mod)
    assert mod.script() == before
    assert FuseAttention(features=FEATURES)(once).same_as(once)
