"""Checks operators without weights against numerics.reference, on random and extreme operands, on all CPUs at hand."""

from __future__ import annotations

import contextlib

import numpy as np
import tvm

from tvm_mpq.kernels import Kernel, Request, fitting
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.reference import evaluate, pad_channels, unpad
from tvm_mpq.schema import TensorQuant
from tvm_mpq.targets import features, local_row, missing_features, resolve, to_tvm

NATIVE = local_row()
HASWELL = resolve("haswell")
CPUS = [NATIVE] if missing_features(HASWELL) or features(NATIVE) == features(HASWELL) else [HASWELL, NATIVE]
"""Where this CPU has AVX2 and no more, both would run the same code of ours."""
NO_RANGES = Operands((None,) * 4, None)


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
            assert all(map(fitting, everywhere)), f"no kernel for {workload.key}"
            for family in fitting(everywhere[-1]):
                cpus = [cpu for cpu, r in zip(CPUS, everywhere, strict=True) if family.fits(r)]
                kernel = Kernel(everywhere[-1], family)
                self.cases.append((kernel, cpus, operands, stored(inputs), expected, rtol, atol))

    def run(self):
        functions, names = {}, []
        for kernel, *_ in self.cases:
            request = kernel.request
            key = kernel.family.name, request.workload, request.threads  # nothing else may change the code
            if key not in functions:
                functions[key] = kernel.build().with_attr("global_symbol", f"f{len(functions)}")
            names.append(str(functions[key].attrs["global_symbol"]))
        by_name = {str(f.attrs["global_symbol"]): f for f in functions.values()}
        for cpu in CPUS:
            chosen = {name: by_name[name] for name, case in zip(names, self.cases, strict=True) if cpu in case[1]}
            module = tvm.compile(tvm.IRModule(chosen), target=to_tvm(cpu, cores=2))
            for name, (kernel, cpus, operands, inputs, expected, rtol, atol) in zip(names, self.cases, strict=True):
                if cpu not in cpus:
                    continue
                got = call(module[name], by_name[name], [*inputs, *kernel.constants(operands)])
                if expected.dtype == np.uint8:
                    got = unpad(got, expected.shape[-1])
                assert got.dtype == expected.dtype and got.shape == expected.shape
                request = kernel.request
                label = f"{kernel.family.name} on {cpu.name}, {request.threads} threads: {request.workload.key}"
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
