"""Our passes in a compile script of one's own: a saved plan, TVM's own compilation, a library for plain TVM.

tvm-mpq optimize model.onnx --data calib.npz --out out/
python examples/compile_with_passes.py model.onnx out/plan.json model.so
"""

from __future__ import annotations

import sys

import tvm

import tvm_mpq as mpq
from tvm_mpq.frontends import load_model
from tvm_mpq.passes import Annotate, Normalize, Realize


def main(model: str, plan_file: str, library: str) -> None:
    """Compile `model` as the plan says and export it."""
    plan = mpq.Plan.load(plan_file)
    mod = load_model(model).mod  # or any Relax module of your own
    mod = tvm.transform.Sequential([Normalize(), Annotate(target=plan.tvm_target()), Realize(plan)])(mod)
    executable = tvm.compile(mod, target=plan.tvm_target())
    executable.export_library(library)
    print(f"{library}: {len(plan.operators)} operators, {sorted(set(plan.operators.values()))}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
