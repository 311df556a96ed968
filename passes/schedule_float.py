"""Schedules every PrimFunc that nobody has scheduled: fused elementwise chains, reductions, softmax, normalisation,
activation matmuls, pooling, transposes.

    for i, j, k in grid(...): naive block   ->   inlined, tiled, parallel loops whose innermost loop LLVM vectorizes

Stands after LegalizeOps / FuseOps / FuseTIR and before building. Functions with `tirx.is_scheduled` are left alone, so
a second run changes nothing. Only TVM's schedule primitives are used, each of which checks that it keeps the meaning
(sums may be reordered); a step that TVM refuses is dropped and the rest goes on. Innermost loops stay serial on
purpose: LLVM vectorizes them with proper tails, while TVM's own vectorization turns a predicated tail into gathers.
"""

from __future__ import annotations

from typing import Any

from tvm import ir
from tvm.ir import IRModule
from tvm.tirx import PrimFunc

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.passes.float_schedules import FloatScheduler
from tvm_mpq.passes.vector_math import replace_math_calls


@ir.transform.module_pass(opt_level=0, name="tvm_mpq.ScheduleFloat")
class ScheduleFloat:
    """Module pass; returns a new module.

    Parameters
    ----------
    features : frozenset[str]
        LLVM feature names of the target; they decide the width of vectors and the size of register tiles.
    parallel_elements : int
        A loop nest of at least this many operations is spread over threads.

    Raises
    ------
    InvalidValueError
        If `parallel_elements` is below 1.
    """

    def __init__(self, *, features: frozenset[str] = frozenset(), parallel_elements: int = 32768) -> None:
        if parallel_elements < 1:
            raise InvalidValueError(f"parallel_elements must be 1 or more (got {parallel_elements})")
        self._features, self._parallel_elements = features, parallel_elements

    def transform_module(self, mod: IRModule, _: Any) -> IRModule:
        functions = dict(mod.functions_items())
        for name, func in functions.items():
            if isinstance(func, PrimFunc) and not (func.attrs and func.attrs.get("tirx.is_scheduled", False)):
                functions[name] = self._scheduled(func)
        return IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)

    def _scheduled(self, func: PrimFunc) -> PrimFunc:
        body = FloatScheduler(func, self._features, self._parallel_elements).run()
        return replace_math_calls(body).with_attr("tirx.is_scheduled", True)
