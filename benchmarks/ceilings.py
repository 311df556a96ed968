"""The ceiling of every kernel family on the core at hand: its instructions alone, all operands in registers.

    taskset -c 1 env TVM_NUM_THREADS=1 python benchmarks/ceilings.py [--target haswell]

What is timed are the loops of `instruction_mixes.py`, compiled by the LLVM that compiles the kernels. Cycles come from
a chain of dependent additions timed in the same turn, so that multiply-adds a cycle do not depend on the clock: median
and quartiles over the turns. On a shared core the fastest turns are those nobody interrupted; GMAC/s is the fastest's.
The other kernel benchmarks take their percentages from here, turn by turn.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import numpy as np
import tvm
from instruction_mixes import TRIPS, Mix, mix_of

from tvm_mpq.kernels import Kernel, Request, fitting
from tvm_mpq.kernels.emit import Parameter, Register, function, let, loop
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload, DType, Precision
from tvm_mpq.targets import features, resolve, to_tvm

TURN_SECONDS = 60e-6
"""Of each turn: less than the time between two interruptions, so that on a busy core some are not interrupted."""
ROUNDS = 300
WORKLOADS = (
    Conv2dWorkload(1, 14, 14, 64, 64, (3, 3), (1, 1), (1, 1, 1, 1)),
    Conv2dWorkload(1, 1, 1, 1024, 1024, (1, 1)),
)
PRECISIONS = "fp32,bf16,w8a8,w7a8,w6a8,w5a8,w4a8,w3a8,w2a8,w1a8,w2a5,w2a4,w2a3,w1a5,w1a4,w1a3,w1a2,w1a1"


class Meter:
    """A mix compiled for a target, and a chain of additions that counts cycles."""

    def __init__(self, mix: Mix, target: str) -> None:
        self.mix, compiled_for = mix, to_tvm(resolve(target))
        arrays = [np.zeros(n * mix.lanes, np.int32) for n in (2, mix.sums)]
        self._mix = _Loop(mix.build(), arrays, compiled_for)
        self._chain = _Loop(_chain(), [np.array(v, np.int32) for v in ([3, 5], [0])], compiled_for)

    @property
    def assembly(self) -> str:
        """Of the mix."""
        return str(self._mix.module.mod.inspect_source("s"))

    def rate(self) -> float:
        """10^9 multiply-adds a second, in one turn."""
        return self.mix.macs * self._mix.rate() / 1e9

    def clock(self) -> float:
        """10^9 cycles a second, in one turn."""
        return 2 * self._chain.rate() / 1e9


class _Loop:
    """A compiled loop, and how many trips make a turn."""

    def __init__(self, func: tvm.tirx.PrimFunc, arrays: list[np.ndarray], target: tvm.target.Target) -> None:
        self.module = tvm.compile(tvm.IRModule({"main": func}), target=target)
        self._run, self._trips = self.module["main"], 10_000
        self._args = [tvm.runtime.tensor(a) for a in arrays]
        self._trips = int(max(self.rate() for _ in range(5)) * TURN_SECONDS)

    def rate(self) -> float:
        """Trips a second, in one turn."""
        trips = tvm.runtime.tensor(np.array([self._trips], np.int32))
        start = time.perf_counter()
        self._run(*self._args, trips)
        return self._trips / (time.perf_counter() - start)


def _chain() -> tvm.tirx.PrimFunc:
    """x = (x + a) ^ b again and again: two instructions of one cycle each, which wait for one another."""
    with function([Parameter("operands", (2,), "int32"), Parameter("out", (1,), "int32"), TRIPS]) as f:
        operands, out = f.flat("operands"), f.flat("out")
        a, b = let(operands[0]), let(operands[1])
        x = Register(1, "int32")
        x.value = out[0]
        with loop(f.flat("trips")[0]):
            x.value = (x.value + a) ^ b
        out[0] = x.value
    return f.func


class Ceilings:
    """Meters of one target, each mix compiled once."""

    def __init__(self, target: str) -> None:
        self._target, self._meters = target, dict[str, Meter]()

    def of(self, kernel: Kernel) -> Meter | None:
        """The meter of the kernel's mix; None for portable kernels, whose instructions LLVM chooses."""
        mix = mix_of(kernel)
        if mix is None:
            return None
        if mix.name not in self._meters:
            self._meters[mix.name] = Meter(mix, self._target)
        return self._meters[mix.name]


@dataclass
class Share:
    """What a kernel reaches of its ceiling, in turns of both."""

    macs: float
    meter: Meter | None
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def turn(self, seconds: float) -> None:
        """Note a turn of the kernel, and let the ceiling have its own."""
        self.seconds.append(seconds)
        if self.meter is not None:
            self.rates.append(self.meter.rate())

    @property
    def least(self) -> float:
        """Seconds of the fastest turn."""
        return min(self.seconds)

    @property
    def best(self) -> float | None:
        """The fastest turn of the kernel against the fastest of the ceiling: other work only makes turns longer."""
        return self.macs / 1e9 / self.least / max(self.rates) if self.rates else None

    def __str__(self) -> str:
        """`85% (78-84)`: of the fastest turns, and the quartiles turn by turn."""
        if self.best is None:
            return f"{'':12s}"
        low, high = np.percentile(self.macs / 1e7 / np.array(self.seconds) / np.array(self.rates), (25, 75))
        return f"{self.best:4.0%} {f'({low:.0f}-{high:.0f})':7s}"


def add_target(parser: argparse.ArgumentParser) -> None:
    """The option that all of these benchmarks take."""
    text = "a name that `tvm-mpq targets` shows and this CPU can run, such as haswell (default: %(default)s)"
    parser.add_argument("--target", default="local", help=text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_target(parser)
    options = parser.parse_args()
    found: dict[str, tuple[Mix, list[str]]] = {}
    for text in PRECISIONS.split(","):
        precision = Precision.parse(text)
        for w in WORKLOADS:
            out_bits = 8 if precision.dtype is DType.INT else FLOAT_BITS
            request = Request(w, precision, out_bits, features(resolve(options.target)))
            for family in fitting(request):
                mix = mix_of(Kernel(request, family))
                if mix is not None:
                    found.setdefault(mix.name, (mix, []))[1].append(f"{family.name} {text}")
    print(f"{'multiply-adds a cycle':22s} {'GMAC/s':>8s}  instructions: first kernel that repeats them")
    for mix, users in found.values():
        meter = Meter(mix, options.target)
        turns = np.array([(meter.clock(), meter.rate()) for _ in range(ROUNDS)])
        low, middle, high = np.percentile(turns[:, 1] / turns[:, 0], (25, 50, 75))
        print(
            f"{middle:8.1f} ({low:.1f}-{high:.1f})".ljust(22),
            f"{turns[:, 1].max():8.1f}  {mix.name}: {users[0]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
