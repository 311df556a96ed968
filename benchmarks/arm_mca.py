"""Static analysis of our kernels on ARM cores: products a cycle in the inner loop, as llvm-mca sees it.

    python benchmarks/arm_mca.py [--llvm-mca PROGRAM] [--cores NAME,...]     # Debian: apt install llvm-19

NOT a measurement. llvm-mca knows the core's ports and latencies as LLVM's scheduling model tells them; it assumes that
all data are in the first-level cache, and sees neither the loops around the inner one nor the end of a tile. LLVM
describes cortex-a72 by the model of cortex-a57, and cortex-a76 by it too: for a76 its server twin neoverse-n1 is asked,
which has a model of its own in LLVM 19 and had none in LLVM 16. A look-up counts as the products that it replaces.
"""

from __future__ import annotations

import argparse
import sys

import mca
import tvm

from tvm_mpq.kernels.registry import Kernel, Request, fitting
from tvm_mpq.schema import Conv2dWorkload, Precision
from tvm_mpq.targets import features, resolve, to_tvm

SAME = (1, 1, 1, 1)
LAYERS = {
    "3x3 256@14": Conv2dWorkload(1, 14, 14, 256, 256, (3, 3), (1, 1), SAME),
    "1x1 256->1024@14": Conv2dWorkload(1, 14, 14, 256, 1024, (1, 1)),
    "depthwise 3x3 96@14": Conv2dWorkload(1, 14, 14, 96, 96, (3, 3), (1, 1), SAME, groups=96),
    "linear 1024->1000": Conv2dWorkload(1, 1, 1, 1024, 1000, (1, 1)),
}
CORES = {
    "cortex-a53": "cortex-a53",
    "cortex-a72": "cortex-a72",
    "cortex-a55": "cortex-a55",
    "cortex-a76": "neoverse-n1",
    "neoverse-v1": "neoverse-v1",
    "neoverse-n2": "neoverse-n2",
}
PRECISIONS = ("w8a8", "w4a8", "w2a8", "w1a8", "w3a4", "w2a4", "w1a4")
PRODUCTS = {"smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8, "sdot": 16, "udot": 16, "usmmla": 32}
JUMP = r"(b\.\w+|cbn?z|tbn?z)"


def weight(body: list[str]) -> int:
    return sum(1 for text in body if text.split()[0] in {*PRODUCTS, "tbl"})


def products(body: list[str], weight_bits: int) -> float:
    """Multiply-adds that one pass of the loop does, or replaces."""
    total = 0.0
    for text in body:
        name = text.split()[0]
        total += 16 * 4 / weight_bits if name == "tbl" else PRODUCTS.get(name, 0)
    return total


def row(program: str, name: str, core: str, precision: Precision) -> str:
    """The best of the kernel's tiles."""
    target = resolve(core)
    request = Request(LAYERS[name], precision, 8, features(target))
    family = fitting(request)[0]
    rates = []
    for knobs in family.knob_space(request):
        kernel = Kernel(request, family, knobs).build()
        module = tvm.compile(tvm.IRModule({"main": kernel}), target=to_tvm(target)).mod
        body = mca.inner_loop(module.inspect_source("s"), weight, JUMP, "//")
        if weight(body):
            rates.append(products(body, precision.weight_bits) / mca.cycles(program, "aarch64", CORES[core], body))
    rate = f"{max(rates):5.1f}" if rates else "straight code"
    return f"{name:20} {core:11} {precision!s:9} {rate:>14}  {'static':8} {family.name}"


def table(program: str, version: int, cores: list[str]) -> None:
    """Print it."""
    print(f"static analysis by llvm-mca of LLVM {version}, not measured; the best of the offered tiles")
    print(f"{'layer':20} {'core':11} {'precision':9} {'products/cycle':>14}  {'source':8} kernel")
    for name in LAYERS:
        for core in cores:
            for text in PRECISIONS[:1] if name.startswith("depthwise") else PRECISIONS:
                print(row(program, name, core, Precision.parse(text)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llvm-mca", default="llvm-mca", help="the program (default: %(default)s)")
    parser.add_argument("--cores", default=",".join(CORES), help="which, by commas (default: %(default)s)")
    args = parser.parse_args()
    cores = args.cores.split(",")
    if unknown := set(cores) - set(CORES):
        parser.error(f"cores are {', '.join(CORES)} (got {', '.join(sorted(unknown))})")
    if reason := mca.run(args.llvm_mca, lambda program, version: table(program, version, cores)):
        sys.exit(f"error: {reason}")


if __name__ == "__main__":
    main()
