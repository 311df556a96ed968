"""Attention at 8 bits against our own in float32, interleaved in one process; and what it loses in whole networks.

    taskset -c 1 env TVM_NUM_THREADS=1 python benchmarks/kernels_attention.py [BATCHxHEADSxTOKENSxFEATURES ...]
        [--networks [NAME ...]]

Of both sides all candidates of the default family are timed, in turns that alternate, and the fastest turn of the best
one is taken. `--networks` also prints the ratio of signal to noise (dB) of random-weight networks' outputs, against
their fp32: with everything but attention at w8a8, with attention too, and with attention alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import tvm
from kernels_conv import seconds
from kernels_linear import arguments
from models import Encoder, VisionTransformer

from tvm_mpq.calibrate import learn
from tvm_mpq.calibrate.data import load_dataset
from tvm_mpq.calibrate.ranges import calibrate
from tvm_mpq.execute.host_runtime import HostRuntime
from tvm_mpq.execute.interpreter import Interpreter
from tvm_mpq.execute.network import all_steps
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.kernels import Kernel, Request, default_kernel
from tvm_mpq.schema import FP32, W8A8, AttentionWorkload, Plan, Precision
from tvm_mpq.targets import features, local_row, to_tvm
from tvm_mpq.tuning.compile.kernel_store import KernelStore

ROUNDS, RUNS, SAMPLES = 40, 3, 4
SHAPES = ("1x3x197x64", "1x12x128x32")
"""Of ViT-Tiny and of MiniLM."""
NETWORKS = {
    "vit_tiny": (lambda: VisionTransformer(192, 12, 3, 16), (1, 3, 224, 224)),
    "minilm": (lambda: Encoder(384, 6, 12, 1536, 2), (1, 128, 384)),
}


def workload(text: str) -> AttentionWorkload:
    """q, k and v in one tensor, as one linear layer leaves them."""
    batch, heads, tokens, depth = map(int, text.split("x"))
    width = heads * depth
    strides = (tokens * 3 * width, depth, 3 * width, 1)
    places = [(0, i * width, *strides) for i in range(3)]
    sizes = batch, heads, tokens, tokens, depth, depth, depth**-0.5
    return AttentionWorkload(*sizes, ((batch, tokens, 3 * width),), *places)


def least_us(kernels: Sequence[Kernel]) -> list[float]:
    """The fastest turn of each kernel, all in turns."""
    rng, least = np.random.default_rng(0), [np.inf] * len(kernels)
    runs = [tvm.compile(tvm.IRModule({"main": k.build()}), target=to_tvm(local_row()))["main"] for k in kernels]
    args = [arguments(k, rng) for k in kernels]
    for _ in range(ROUNDS):
        for i, (run, given) in enumerate(zip(runs, args, strict=True)):
            run(*given)
            least[i] = min(least[i], 1e6 * seconds(run, given, RUNS))
    return least


def candidates_of(w: AttentionWorkload, precision: Precision, out_bits: int) -> list[Kernel]:
    request = Request(w, precision, out_bits, features(local_row()))
    family = default_kernel(request).family
    return [Kernel(request, family, knobs) for knobs in family.knob_space(request)]


def time_kernels(shapes: Sequence[str]) -> None:
    for text in shapes:
        w = workload(text)
        floats, integers = candidates_of(w, FP32, 32), candidates_of(w, W8A8, 8)
        found = least_us([*floats, *integers])
        best = min(found[: len(floats)]), min(found[len(floats) :])
        name = integers[0].family.name
        print(f"{text:14} fp32 {best[0]:7.1f} us, {name} {best[1]:7.1f} us, ratio {best[1] / best[0]:.2f}")


def signal_to_noise(name: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    prepared = prepare(make().eval(), example_inputs=torch.zeros(shape))
    graph = prepared.graph
    with tempfile.TemporaryDirectory() as folder:
        store = KernelStore(Path(folder), prepared.tvm_target_attrs)
        runtime = HostRuntime(store, graph, prepared.tvm_target(), prepared.features)
        interpreter = Interpreter(graph, runtime)
        samples = learn.graph_samples(prepared, load_dataset(None, prepared.inputs).head(SAMPLES))
        ranges = calibrate(
            graph, interpreter, all_steps(prepared, learn.bare_plan(prepared, {})), samples, bits=[8], method="minmax"
        )

        def outputs(of_weights: str, of_attention: str) -> np.ndarray:
            kinds = {n.name: of_attention if n.kind == "attention" else of_weights for n in graph.quantizable()}
            steps = all_steps(prepared, Plan(prepared.row.name, prepared.tvm_target_attrs, kinds, ranges))
            interpreter.prepare(steps)
            return np.stack(
                [interpreter.outputs(interpreter.run(steps, interpreter.load(s), tag="plan"))[0] for s in samples]
            )

        wanted = outputs("fp32", "fp32")
        found = [outputs(*pair) for pair in (("w8a8", "fp32"), ("w8a8", "w8a8"), ("fp32", "w8a8"))]
    decibels = [20 * np.log10(np.linalg.norm(wanted) / np.linalg.norm(y - wanted)) for y in found]
    print(f"{name}: all but attention {decibels[0]:.1f} dB, all {decibels[1]:.1f} dB, attention {decibels[2]:.1f} dB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=SHAPES, metavar="BATCHxHEADSxTOKENSxFEATURES")
    parser.add_argument("--networks", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}; all without a name")
    args = parser.parse_args()
    time_kernels(args.shapes or SHAPES)
    for name in (args.networks or NETWORKS) if args.networks is not None else ():
        signal_to_noise(name)


if __name__ == "__main__":
    main()
