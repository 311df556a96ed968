"""exp, log, sines, tanh and erf as arithmetic: units in the last place over all of float32, and what is no number."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import tvm
from tvm import relax, tirx

from tvm_mpq.passes.vector_math import replace_math_calls

ULPS = {"exp": 2, "log": 2, "sin": 2.5, "cos": 2.5, "tanh": 6, "erf": 7}


def computed(name: str, x: np.ndarray) -> np.ndarray:
    """The function by the arithmetic that replaces its library call."""
    builder = relax.BlockBuilder()
    data = relax.Var("x", relax.TensorType(x.shape, "float32"))
    with builder.function("main", [data]):
        builder.emit_func_output(builder.emit(getattr(relax.op, name)(data)))
    mod = relax.transform.LegalizeOps()(builder.get())
    functions = dict(mod.functions_items())
    (function,) = [g for g, f in functions.items() if isinstance(f, tirx.PrimFunc)]
    functions[function] = replace_math_calls(functions[function])
    assert f"T.{name}(" not in functions[function].script()
    executable = tvm.compile(tvm.IRModule(functions), target=tvm.target.Target({"kind": "llvm"}))
    return relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()


def every_exponent(rng: np.random.Generator, each: int) -> np.ndarray:
    """Numbers of both signs with each exponent, subnormal ones among them."""
    mantissas = rng.integers(0, 1 << 23, (255, each), dtype=np.uint32)
    signs = rng.integers(0, 2, (255, each), dtype=np.uint32) << 31
    return (signs | np.arange(255, dtype=np.uint32)[:, None] << 23 | mantissas).view(np.float32).ravel()


def near_zeros() -> np.ndarray:
    """The float32 nearest to multiples of pi / 2, where sines and cosines cancel, up to 1e9."""
    whole = np.unique(np.concatenate([np.arange(-6000, 6000), np.geomspace(1e4, 6e8, 4000).round()]))
    return (whole * (np.pi / 2)).astype(np.float32)


EXACT = {"erf": scipy.special.erf}
SMALLEST = float(np.float32(1e-45))
INF, NAN = np.inf, np.nan
ENDS = {
    "exp": {0: 1, 88.75: INF, 1e30: INF, INF: INF, -87.25: np.exp(-87.25), -90: 0, -INF: 0, NAN: NAN},
    "log": {1: 0, -1: NAN, -INF: NAN, INF: INF, SMALLEST: np.log(SMALLEST), NAN: NAN, -0.0: -INF},
    "sin": {INF: NAN, -INF: NAN, NAN: NAN, -0.0: -0.0},
    "cos": {INF: NAN, -INF: NAN, NAN: NAN, -0.0: 1},
    "tanh": {INF: 1, -INF: -1, 9.5: 1, -1e30: -1, NAN: NAN, -0.0: -0.0, SMALLEST: SMALLEST},
    "erf": {INF: 1, -INF: -1, 4.0: 1, -1e30: -1, NAN: NAN, -0.0: -0.0, SMALLEST: SMALLEST},
}


@pytest.mark.parametrize("name", ULPS)
def test_units_in_the_last_place_and_ends_of_the_range(name: str, rng: np.random.Generator) -> None:
    spread = [rng.uniform(low, high, 20000) for low, high in ((-90, 89), (0.5, 2), (-10, 0), (0, 10))]
    x = np.concatenate([every_exponent(rng, 200), *spread, near_zeros()]).astype(np.float32)
    if name == "log":
        x = abs(x)
    with np.errstate(over="ignore", divide="ignore"):
        exact = EXACT.get(name, getattr(np, name, None))(x.astype(np.float64))
        rounded = exact.astype(np.float32)
    found, ends = np.split(computed(name, np.append(x, np.array([*ENDS[name]], np.float32))), [len(x)])
    normal = np.isfinite(rounded) & (abs(exact) >= np.finfo(np.float32).tiny)
    off = abs(found[normal] - exact[normal]) / np.spacing(abs(rounded[normal])).astype(np.float64)
    assert off.max() <= ULPS[name], x[normal][off.argmax()]
    np.testing.assert_array_equal(found[np.isinf(rounded)], rounded[np.isinf(rounded)])
    if name in ("tanh", "erf"):
        assert np.abs(found).max() <= 1
    small = ~normal & np.isfinite(rounded)
    assert np.all(abs(found[small] - rounded[small]) <= np.finfo(np.float32).tiny)
    wanted = np.array([*ENDS[name].values()])
    np.testing.assert_allclose(ends, wanted, rtol=3e-7, atol=0)
    np.testing.assert_array_equal(np.signbit(ends[wanted == 0]), np.signbit(wanted[wanted == 0]))
