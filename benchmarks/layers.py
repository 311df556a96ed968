"""Where a network's time goes: every kernel of a uniform network, timed inside the running network.

    taskset -c 1 python benchmarks/layers.py --networks resnet18,mobilenetv2 --shared FOLDER [--precision w8a8]
        [--target haswell]

Times are medians over runs of the Relax VM with a stopwatch as its instrument (the interpreter, since the compiled mode
has none); that adds about a microsecond a call. Each kernel's ceiling is its own (`ceilings.py`), reached in the same
minute. Padded channels count as work there and not in the rates.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from ceilings import Ceilings, add_target
from networks import NETWORKS, material
from tvm import relax

from tvm_mpq.execute import network
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.kernels import Kernel
from tvm_mpq.passes.lowering import KernelStep
from tvm_mpq.passes.realize import KERNEL_ATTR
from tvm_mpq.pipeline import Options, build_network
from tvm_mpq.schema import Conv2dWorkload, Workload

WARM_UP, RUNS, METER_TURNS = 5, 40, 50


@dataclass
class Line:
    """Calls of one kernel. macs: of one call, 0 where there are none; ceiling: GMAC/s, 0 where none is known."""

    name: str
    macs: int
    ceiling: float
    us: list[float]  # of one run, all calls together
    calls: int


class Stopwatch:
    """The virtual machine's instrument: called before and after every kernel."""

    def __init__(self) -> None:
        self.us: dict[str, list[float]] = {}
        self._start = 0.0

    def __call__(self, _function: Any, name: str, before_run: bool, *_rest: Any) -> int:
        if before_run:
            self._start = time.perf_counter()
        else:
            self.us.setdefault(name, []).append((time.perf_counter() - self._start) * 1e6)
        return 0  # go on


def short(workload: Workload) -> str:
    """`conv 64->128 3x3/2 56x56 residual relu`."""
    if not isinstance(workload, Conv2dWorkload):
        return workload.key
    w = workload
    kind = "depthwise" if w.groups == w.in_channels > 1 else "conv" if w.groups == 1 else f"conv/{w.groups} groups"
    shape = f"{w.in_channels}->{w.out_channels} {w.kernel[0]}x{w.kernel[1]}/{w.stride[0]} {w.in_height}x{w.in_width}"
    return " ".join((kind, shape, *(["residual"] if w.residual else []), w.activation)).rstrip()


def lines(
    mod: tvm.IRModule, target: tvm.target.Target, x: Any, kernels: Mapping[str, Kernel], tops: Ceilings
) -> list[Line]:
    """Time every kernel of a realized network within its runs."""
    machine = relax.VirtualMachine(relax.build(mod, target), tvm.cpu())
    value = tvm.runtime.tensor(x)
    keys = {g.name_hint: str(f.attrs.get(KERNEL_ATTR, g.name_hint)) for g, f in mod.functions_items()}
    found: dict[str, Line] = {}
    for run in range(WARM_UP + RUNS):
        watch = Stopwatch()
        machine.set_instrument(watch)
        machine["main"](value)
        if run < WARM_UP:
            continue
        for name, us in watch.us.items():
            if name.startswith("vm.builtin"):
                continue
            key = keys.get(name, name)
            if name not in found:
                found[name] = _line(key, kernels.get(key), len(us), tops)
            found[name].us.append(sum(us))
    return list(found.values())


def _line(key: str, kernel: Kernel | None, calls: int, tops: Ceilings) -> Line:
    if kernel is None:
        return Line(key, 0, 0.0, [], calls)
    w, meter = kernel.request.workload, tops.of(kernel)
    macs = w.macs if isinstance(w, Conv2dWorkload) else 0
    ceiling = max(meter.rate() for _ in range(METER_TURNS)) if meter else 0.0
    return Line(f"{short(w)} {kernel.request.precision}", macs, ceiling, [], calls)


def show(title: str, found: list[Line]) -> None:
    whole = sum(float(np.median(line.us)) for line in found)
    print(f"{title}: {whole / 1e3:.3f} ms in kernels")
    print(f"{'kernel':70s} {'calls':>5s} {'us':>8s} {'share':>6s} {'GMAC/s':>7s} {'of ceiling':>10s}")
    for line in sorted(found, key=lambda one: -float(np.median(one.us))):
        us = float(np.median(line.us))
        rate = line.calls * line.macs / us / 1e3
        cells = f" {rate:7.1f}" if line.macs else ""
        cells += f" {rate / line.ceiling:10.0%} of {line.ceiling:.0f}" if line.ceiling else ""
        print(f"{line.name[:70]:70s} {line.calls:5d} {us:8.1f} {us / whole:6.1%}{cells}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="resnet18", help=f"comma separated, of {', '.join(NETWORKS)}")
    parser.add_argument("--precision", default="w8a8", help="as for `tvm-mpq build --uniform` (default w8a8)")
    parser.add_argument("--shared", type=Path, help="folder with models/, dataset.py and torch_models.py")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "tvm-mpq" / "peers")
    parser.add_argument("--db", help="latency database (default: the user's)")
    add_target(parser)
    options = parser.parse_args()
    os.environ.setdefault("TVM_NUM_THREADS", "1")
    tops = Ceilings(options.target)
    for name in options.networks.split(","):
        given = material(name, options.shared, options.cache, 16, 4, False)
        model, x = given.onnx or given.tflite, np.load(given.check)[:1]
        asked = Options(model, target=options.target, data=np.load(given.calibration), db=options.db)
        built = build_network(asked, uniform=options.precision)
        prepared = prepare(model, target=options.target)
        steps = [s for s in network.all_steps(prepared, built.plan) if isinstance(s, KernelStep)]
        kernels = {s.kernel.request.key: s.kernel for s in steps}
        realized = network.realize(prepared, built.plan)
        show(f"{name} {options.precision}", lines(realized, prepared.tvm_target(), x, kernels, tops))


if __name__ == "__main__":
    main()
