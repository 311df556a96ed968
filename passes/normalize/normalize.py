"""The list of passes that brings an imported network into the one form that Annotate expects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tvm
from tvm import relax

from tvm_mpq.passes.normalize.channels_last import ChannelsLast
from tvm_mpq.passes.normalize.composites import is_composite
from tvm_mpq.passes.normalize.conv1d_as_conv2d import Conv1dAsConv2d
from tvm_mpq.passes.normalize.fold_affine import FoldAffine
from tvm_mpq.passes.normalize.fold_constants import constant_calls_left
from tvm_mpq.passes.normalize.fuse_operators import FuseOperators
from tvm_mpq.passes.normalize.lift_helpers import LiftHelpers
from tvm_mpq.passes.normalize.merge_copy import MergeCopy
from tvm_mpq.passes.normalize.rewrite import main_function
from tvm_mpq.passes.normalize.simplify import Simplify
from tvm_mpq.passes.normalize.sink_reshape import SinkReshape


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.Normalize")
class Normalize:
    """imported module -> the same network with every quantizable operator as a composite call, channels-last.

    The result's `main` has the same parameters and results. Its bindings are calls of composite functions (described in
    composites.py), float operators that have no composite form, and layout changes at the edges of the network.
    A module that holds composites already is returned as it is.

    Raises
    ------
    UnsupportedModelError
        If the module has no main, main has control flow, or a tensor has no static shape.
    """

    if TYPE_CHECKING:  # what the decorator adds, which it does not tell type checkers

        def __call__(self, mod: tvm.IRModule) -> tvm.IRModule: ...

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        main_function(mod)
        if any(is_composite(f) for f in mod.functions.values()):
            return mod
        mod = _cleaned(mod)
        layout = [Conv1dAsConv2d(), ChannelsLast(), Simplify(), MergeCopy(), SinkReshape(), Simplify(), FoldAffine()]
        fuse = [FuseOperators(), relax.transform.DeadCodeElimination(["main"])]
        return tvm.transform.Sequential([*layout, *fuse])(mod)


def _cleaned(mod: tvm.IRModule) -> tvm.IRModule:
    """Importers' litter out, constants computed, main one dataflow block."""
    if "params" in (mod["main"].attrs or {}):  # a second copy of all weights, as TFLite's importer leaves it
        builder = relax.BlockBuilder(mod)
        builder.update_func(mod.get_global_var("main"), mod["main"].without_attr("params"))
        mod = builder.get()
    mod = relax.transform.ConvertToDataflow(min_size=1)(mod)
    mod = tvm.transform.Sequential([LiftHelpers(), Simplify()])(mod)
    if constant_calls_left(mod):
        mod = tvm.transform.Sequential([relax.transform.FoldConstant(), Simplify()])(mod)
    return mod
