"""Static analysis of our kernels on x86 clients: multiply-adds a cycle in the inner loop, as llvm-mca sees it.

    python benchmarks/x86_mca.py [--llvm-mca PROGRAM]     # Debian: apt install llvm-19, then --llvm-mca llvm-mca-19

NOT a measurement: see `arm_mca.py`. All data are in the first-level cache; neither the loops around the inner one nor
the end of a tile are seen, but of depthwise tiles, which are straight code with their end. LLVM 19 describes gracemont
and lunarlake by Golden Cove's model, so only `alderlake` is asked. Rows of AVX2 stand beside those of AVX-VNNI: what
the same CPU would run without them. A look-up counts as the products that it replaces.
"""

from __future__ import annotations

import argparse
import sys

import mca
import tvm
from arm_mca import LAYERS

from tvm_mpq.kernels.registry import Family, Kernel, Request, fitting
from tvm_mpq.schema import Precision
from tvm_mpq.targets import features, resolve, to_tvm

CORE = "alderlake"
JUMP = r"j\w+"
PRECISIONS = ("w8a8", "w7a8", "w4a8", "w2a8", "w1a8", "w2a4", "w1a4")


def products(family: Family, request: Request, body: list[str]) -> float:
    """Multiply-adds that one pass of a loop does, or replaces."""
    isa = family.name.rpartition("__")[2]
    if "lutconv2d" in family.name:
        return counted(body, "vpshufb") * 32 * 4 / request.precision.weight_bits
    if "dwconv2d" in family.name:  # 3x3: three rows of four, or nine taps of five pairs
        return counted(body, "vpdpbusd") * 24 if isa == "avxvnni" else counted(body, "vpmaddwd") * 16 * 9 / 10
    if isa == "avxvnni":
        return counted(body, "vpdpbusd") * 32
    if "_s16_" in family.name:
        return counted(body, "vpmaddubsw") * 32
    return counted(body, "vpmaddwd") * 16


def counted(body: list[str], name: str) -> int:
    """How often an instruction stands there."""
    return sum(1 for text in body if text.removeprefix("{vex}").split()[0] == name)


def rate(program: str, family: Family, request: Request) -> float:
    """Of the best of the kernel's tiles; 0 where none has a loop."""
    found = [0.0]
    for knobs in family.knob_space(request):
        module = tvm.compile(
            tvm.IRModule({"main": Kernel(request, family, knobs).build()}), target=to_tvm(resolve(CORE))
        )
        assembly = module.mod.inspect_source("s")
        body = mca.inner_loop(assembly, lambda lines: int(products(family, request, lines)), JUMP, "#")
        if body and products(family, request, body):
            found.append(products(family, request, body) / mca.cycles(program, "x86_64", CORE, body))
    return max(found)


def table(program: str, version: int) -> None:
    """Print it."""
    print(f"static analysis by llvm-mca of LLVM {version} for {CORE}, not measured; the best of the offered tiles")
    print(f"{'layer':20} {'precision':9} {'products/cycle':>14}  {'source':8} kernel")
    for name, workload in LAYERS.items():
        for text in PRECISIONS[:1] if name.startswith("depthwise") else PRECISIONS:
            request = Request(workload, Precision.parse(text), 8, features(resolve(CORE)))
            for family in fitting(request):
                if not family.name.endswith("__generic"):
                    found = rate(program, family, request)
                    shown = f"{found:5.1f}" if found else "straight code"
                    print(f"{name:20} {text:9} {shown:>14}  {'static':8} {family.name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llvm-mca", default="llvm-mca", help="the program (default: %(default)s)")
    if reason := mca.run(parser.parse_args().llvm_mca, table):
        sys.exit(f"error: {reason}")


if __name__ == "__main__":
    main()
