"""The passes in their order, also as `relax.get_pipeline("tvm_mpq", plan=plan)`."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_mpq.passes.annotate import Annotate
from tvm_mpq.passes.normalize import Normalize
from tvm_mpq.passes.realize import Realize
from tvm_mpq.schema import Plan


@relax.register_pipeline("tvm_mpq")
def mixed_precision(*, plan: Plan, threads: int = 1) -> tvm.transform.Pass:
    """From an imported float module to what `tvm.compile(mod, target=plan.tvm_target())` takes.

    Known to Relax once `tvm_mpq.passes` has been imported.
    """
    return tvm.transform.Sequential(
        [Normalize(), Annotate(target=plan.tvm_target(), threads=threads), Realize(plan, threads=threads)]
    )
