"""Passes: Relax module in, new Relax module out. For compile scripts of one's own:

    mod = tvm.transform.Sequential([Normalize(), Annotate(), Realize(plan)])(mod)

or `relax.get_pipeline("tvm_mpq", plan="folder of a build")`, which goes on to TVM's default build. `load_plan(folder)`
gives the plan and the integers of its weights, both of which `Realize` takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tvm
import tvm_ffi
from tvm import relax

from tvm_mpq import errors
from tvm_mpq.numerics.saved_plan import load_plan
from tvm_mpq.passes.annotate import Annotate
from tvm_mpq.passes.fix_shapes import FixShapes
from tvm_mpq.passes.normalize import Normalize
from tvm_mpq.passes.realize import Realize
from tvm_mpq.schema import Plan

if TYPE_CHECKING:
    from tvm_mpq.numerics.weight_codes import WeightCodes

__all__ = ["Annotate", "FixShapes", "Normalize", "Realize", "load_plan", "pipeline"]


def pipeline(
    plan: Plan | Any,
    codes: WeightCodes | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> tvm.ir.transform.Pass:
    """From an imported module to what the virtual machine runs: our passes, then TVM's default build.

    plan: also the path of a built folder or of its plan.json; its weights' integers are then read from beside it.
    input_shapes: by the name of `main`'s parameter, where the module leaves sizes open; see `FixShapes`.
    """
    if not isinstance(plan, Plan):
        plan, codes = load_plan(plan)
    ours = [FixShapes(input_shapes), Normalize(), Annotate(target=plan.tvm_target()), Realize(plan, codes)]
    return tvm.transform.Sequential([*ours, relax.pipeline.default_build_pipeline()])


# A pass runs behind TVM's foreign function interface, which turns errors it does not know into RuntimeError.
for _name, _error in vars(errors).items():
    if isinstance(_error, type) and issubclass(_error, errors.MPQError):
        tvm_ffi.register_error(_name, _error)

if "tvm_mpq" not in relax.pipeline.PIPELINE_MAP:
    relax.register_pipeline("tvm_mpq")(pipeline)
