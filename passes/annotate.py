"""Annotate: every quantizable operator learns which precisions this target has kernels for.

before  composite functions with `mpq.kind`, `mpq.name`, `mpq.workload` (Normalize)
after   the same, and `mpq.candidates` = "fp32 w8a8 w4a8 ..." on convolutions, linear and recurrent layers, attention

Stands after Normalize and before Realize. Bodies and `main` are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import tvm

from tvm_mpq import targets
from tvm_mpq.kernels import OFFERED, candidate_precisions
from tvm_mpq.passes.graph import QUANTIZABLE_KINDS
from tvm_mpq.schema import Precision, Workload


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.Annotate")
class Annotate:
    """Write candidate precisions on every quantizable operator.

    Parameters
    ----------
    target
        A target row or its name, a `tvm.target.Target`, or "local".
    threads
        Threads the kernels will use; None = `num-cores` of a `tvm.target.Target` that names them, else 1.
    offered
        Precisions to choose from; `fp32` and `w8a8` always are.
    same_code
        Also those that run the same code here as more bits do: they are priced for another machine.
    """

    def __init__(
        self,
        *,
        target: object = "local",
        threads: int | None = None,
        offered: Iterable[Precision] = OFFERED,
        same_code: bool = False,
    ) -> None:
        self._features = targets.features(targets.resolve(target))
        self._threads = threads or targets.threads_of(target)
        self._offered = tuple(offered)
        self._same_code = same_code

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        functions = {}
        for var, function in mod.functions_items():
            attrs = function.attrs
            if attrs is not None and "mpq.kind" in attrs and str(attrs["mpq.kind"]) in QUANTIZABLE_KINDS:
                workload = Workload.from_json(json.loads(str(attrs["mpq.workload"])))
                found = candidate_precisions(
                    workload, self._features, self._threads, self._offered, same_code=self._same_code
                )
                function = function.with_attr("mpq.candidates", " ".join(map(str, found)))
            functions[var] = function
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)
