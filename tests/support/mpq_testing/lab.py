"""One prepared and calibrated network, without measuring anything: plans of it can be interpreted, built and run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mpq_testing import stranger
from mpq_testing.definition import walk
from tvm_mpq.calibrate import learn
from tvm_mpq.calibrate.data import load_dataset
from tvm_mpq.calibrate.ranges import calibrate, range_bits
from tvm_mpq.execute import network
from tvm_mpq.execute.host_runtime import HostRuntime
from tvm_mpq.execute.interpreter import Interpreter
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.passes.graph import Node
from tvm_mpq.passes.lowering import Step, StoredValue
from tvm_mpq.schema import FLOAT_BITS, Plan
from tvm_mpq.tuning.compile.kernel_store import KernelStore

Array = npt.NDArray[Any]


class Lab:
    """model: whatever `optimize` takes; kernels: folder of compiled kernels, shared by all labs of a test run.

    options: of `prepare`.
    """

    def __init__(
        self, model: Any, kernels: Path, *, observer: str = "minmax", samples: int = 4, **options: Any
    ) -> None:
        self.model = model
        self.prepared = prepare(model, **options)
        self.graph = self.prepared.graph
        self.store = KernelStore(kernels, self.prepared.tvm_target_attrs)
        runtime = HostRuntime(
            self.store, self.graph, self.prepared.tvm_target(), self.prepared.features, self.prepared.threads
        )
        self.interpreter = Interpreter(self.graph, runtime)
        self.data = load_dataset(None, self.prepared.inputs).head(samples)
        self.samples = learn.graph_samples(self.prepared, self.data)
        steps = self.steps(learn.bare_plan(self.prepared, {}))
        bits = range_bits(self.graph, options.get("offered", ()))
        self.ranges = calibrate(self.graph, self.interpreter, steps, self.samples, bits=bits, method=observer)

    @property
    def names(self) -> list[str]:
        return [n.name for n in self.graph.quantizable()]

    def plan(self, default: str, others: Mapping[str, str] | None = None, **options: Any) -> Plan:
        """One precision everywhere but where named."""
        operators = {name: (others or {}).get(name, default) for name in self.names}
        assert set(others or {}) <= set(operators), f"operators are {self.names}"
        return Plan(self.prepared.row.name, self.prepared.tvm_target_attrs, operators, self.ranges, **options)

    def random_plan(self, rng: np.random.Generator) -> Plan:
        choices = {n.name: str(rng.choice(n.candidates)) for n in self.graph.quantizable()}
        return self.plan("fp32", choices)

    def steps(self, plan: Plan) -> list[Step]:
        return network.all_steps(self.prepared, plan)

    def values(self, plan: Plan, sample: int = 0) -> dict[StoredValue, Array]:
        """Every tensor that the interpreter's compiled kernels left, logical channels."""
        return self.values_of(self.steps(plan), sample)

    def values_of(self, steps: Sequence[Step], sample: int = 0) -> dict[StoredValue, Array]:
        """The same of any steps."""
        self.interpreter.prepare(steps)
        held = self.interpreter.run(steps, self.interpreter.load(self.samples[sample]), tag="lab")
        arrays = {v: t.numpy() for v, t in held.items() if hasattr(t, "numpy")}
        channels = {v: self.graph.tensors[v.tensor].shape for v in arrays}
        return {v: x if v.bits == FLOAT_BITS else x[..., : channels[v][-1]] for v, x in arrays.items()}

    def interpret(self, plan: Plan, sample: int = 0) -> list[Array]:
        values = self.values(plan, sample)
        return [values[StoredValue(name, FLOAT_BITS)] for name in self.graph.outputs]

    def define(self, plan: Plan, sample: int = 0) -> list[Array]:
        """The network's outputs in NumPy; operators without a definition run compiled."""
        held = walk(self.graph, self.steps(plan), self.samples[sample], self._float_node)
        return [held[StoredValue(name, FLOAT_BITS)] for name in self.graph.outputs]

    def _float_node(self, node: Node, inputs: list[Array]) -> Array:
        function = self.interpreter._floats[node.name]  # no public way: only tests walk a network in two worlds
        result = function(*[self.interpreter._runtime.array(np.ascontiguousarray(x)) for x in inputs])
        return np.asarray(result.numpy())

    def run_built(self, plans: Sequence[Plan], folder: Path, sample: int = 0) -> list[list[Array]]:
        """Outputs of each plan's model.so, all run by one stranger."""
        jobs = []
        np.savez(folder / "inputs.npz", *self.samples[sample].values())
        for i, plan in enumerate(plans):
            built = network.build(self.prepared, plan, folder / f"model{i}.so", None, self.store)
            jobs.append(
                {
                    "library": str(built.path),
                    "inputs": str(folder / "inputs.npz"),
                    "outputs": str(folder / f"out{i}.npz"),
                }
            )
        return run_strangers(jobs, folder, self.prepared.threads)

    def run_library(self, library: Path, folder: Path, sample: int = 0) -> list[Array]:
        """Outputs of one library, run by a stranger."""
        np.savez(folder / "inputs.npz", *self.samples[sample].values())
        job = {"library": str(library), "inputs": str(folder / "inputs.npz"), "outputs": str(folder / "out.npz")}
        return run_strangers([job], folder, self.prepared.threads)[0]


class _Stranger:
    """A process that has plain TVM only. It ends with this one, which holds its standard input."""

    def __init__(self, threads: int) -> None:
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
        self._process = subprocess.Popen(
            [sys.executable, stranger.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            env={**os.environ, "TVM_NUM_THREADS": str(threads)},
            text=True,
        )

    def failed(self, jobs: list[dict[str, str]], folder: Path) -> str:
        """Empty, or how the process ended in the middle of these jobs."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"folder": str(folder), "jobs": jobs}) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() == "done\n":
            return ""
        self._process.kill()
        code = self._process.wait()
        self._messages.seek(0)
        return f"a stranger ended with code {code}: {self._messages.read().decode(errors='replace')}"


_strangers: dict[int, _Stranger] = {}


def run_strangers(jobs: list[dict[str, str]], folder: Path, threads: int = 1) -> list[list[Array]]:
    """Run libraries in a process that has plain TVM only: one for all calls at so many threads."""
    if threads not in _strangers:
        _strangers[threads] = _Stranger(threads)
    failed = _strangers[threads].failed(jobs, folder)
    if failed:
        del _strangers[threads]  # the next call gets a new one
    assert not failed, failed
    results = []
    for job in jobs:
        with np.load(folder / job["outputs"]) as archive:
            results.append([archive[f"arr_{i}"] for i in range(len(archive.files))])
    return results
