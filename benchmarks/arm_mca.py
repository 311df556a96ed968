"""Static analysis of our kernels on ARM cores: products a cycle in the inner loop, as llvm-mca sees it.

    python benchmarks/arm_mca.py [--llvm-mca PROGRAM] [--cores NAME,...]     # Debian: apt install llvm-19

NOT a measurement. llvm-mca knows the core's ports and latencies as LLVM's scheduling model tells them; it assumes that
all data are in the first-level cache, and sees neither the loops around the inner one nor the end of a tile. LLVM
describes cortex-a72 by the model of cortex-a57, and cortex-a76 by it too: for a76 its server twin neoverse-n1 is asked,
which has a model of its own in LLVM 19 and had none in LLVM 16. A look-up counts as the products that it replaces. At
fp16 the loop around the inner one counts too, which widens the sums of a block.
"""

from __future__ import annotations

import argparse
import re
import sys

import mca
import tvm

from tvm_mpq.kernels.registry import Kernel, Request, fitting
from tvm_mpq.numerics.float16 import blocks_of
from tvm_mpq.schema import FLOAT_BITS, FP16, Conv2dWorkload, Precision
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
PRECISIONS = ("fp32", "fp16", "w8a8", "w4a8", "w2a8", "w1a8", "w3a4", "w2a4", "w1a4")
PRODUCTS = {"smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8, "sdot": 16, "udot": 16, "usmmla": 32}
JUMP = r"(b\.\w+|cbn?z|tbn?z)"


def weight(body: list[str]) -> int:
    return sum(1 for text in body if text.split()[0] in {*PRODUCTS, "tbl", "fmla"})


def products(body: list[str], weight_bits: int) -> float:
    """Multiply-adds that one pass of the loop does, or replaces."""
    total = 0.0
    for text in body:
        name = text.split()[0]
        if floats := re.match(r"fmla\s+v\d+\.(\d)", text):
            total += int(floats[1])
        total += 16 * 4 / weight_bits if name == "tbl" else PRODUCTS.get(name, 0)
    return total


def rate(program: str, core: str, assembly: str, w: Conv2dWorkload, precision: Precision) -> float | None:
    """Products a cycle; None where no loop makes any."""
    body = mca.inner_loop(assembly, weight, JUMP, "//")
    if not weight(body):
        return None
    made, cycles = products(body, precision.weight_bits), mca.cycles(program, "aarch64", CORES[core], body)
    if precision == FP16:
        passes = blocks_of(w).steps[0][0]
        around = mca.loop_around(assembly, body, JUMP, "//")
        made, cycles = made * passes, cycles * passes + mca.cycles(program, "aarch64", CORES[core], around)
    return made / cycles


def row(program: str, name: str, core: str, precision: Precision) -> str | None:
    """The best of the kernel's tiles; None where there is no kernel."""
    target = resolve(core)
    request = Request(LAYERS[name], precision, FLOAT_BITS if precision.is_float else 8, features(target))
    rows = fitting(request)
    if not rows:
        return None
    rates = []
    for knobs in rows[0].knob_space(request):
        kernel = Kernel(request, rows[0], knobs).build()
        module = tvm.compile(tvm.IRModule({"main": kernel}), target=to_tvm(target)).mod
        rates.append(rate(program, core, module.inspect_source("s"), LAYERS[name], precision))
    found = [r for r in rates if r is not None]
    text = f"{max(found):5.1f}" if found else "straight code"
    return f"{name:20} {core:11} {precision!s:9} {text:>14}  {'static':8} {rows[0].name}"


def table(program: str, version: int, cores: list[str], precisions: list[str]) -> None:
    """Print it."""
    print(f"static analysis by llvm-mca of LLVM {version}, not measured; the best of the offered tiles")
    print(f"{'layer':20} {'core':11} {'precision':9} {'products/cycle':>14}  {'source':8} kernel")
    for name in LAYERS:
        for core in cores:
            for text in [p for p in precisions if p == "w8a8" or not name.startswith("depthwise")]:
                if line := row(program, name, core, Precision.parse(text)):
                    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llvm-mca", default="llvm-mca", help="the program (default: %(default)s)")
    parser.add_argument("--cores", default=",".join(CORES), help="which, by commas (default: %(default)s)")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="which, by commas (default: %(default)s)")
    args = parser.parse_args()
    cores, precisions = args.cores.split(","), args.precisions.split(",")
    if unknown := set(cores) - set(CORES):
        parser.error(f"cores are {', '.join(CORES)} (got {', '.join(sorted(unknown))})")
    if reason := mca.run(args.llvm_mca, lambda program, version: table(program, version, cores, precisions)):
        sys.exit(f"error: {reason}")


if __name__ == "__main__":
    main()
