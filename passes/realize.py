"""Realize: a normalized network becomes integer (and float) kernels, boundaries and packed weights, as the plan says.

before  main of composite calls and plain float operators (Normalize, Annotate)
after   main of `call_tir` to scheduled PrimFuncs; weights quantized and packed as constants; operators that have no
        template legalized, fused and scheduled. Same parameters and outputs.

Stands last; what follows is TVM's default compilation.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax

from tvm_mpq import targets
from tvm_mpq.kernels.registry import Kernel
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.extremes import EXTREMES
from tvm_mpq.passes.fuse_attention import FuseAttention
from tvm_mpq.passes.fuse_norm import FuseNorm
from tvm_mpq.passes.graph import Graph, read_graph
from tvm_mpq.passes.lower_topk import LowerTopk
from tvm_mpq.passes.lower_transpose import LowerTranspose
from tvm_mpq.passes.lowering import FloatStep, KernelStep, ReshapeStep, StoredValue, lower, stored_shape
from tvm_mpq.passes.merge_reduced import MergeReduced
from tvm_mpq.passes.schedule_float import ScheduleFloat
from tvm_mpq.schema import FLOAT_BITS, Plan

OPAQUE = 8
"""TVM's op pattern "opaque": operator fusion leaves such a PrimFunc alone."""

_NEVER = 2**62
"""Operations from which a loop nest is spread over threads, where there is one thread only."""

KERNEL_ATTR = "mpq.kernel"
"""Marks PrimFuncs that came from the kernel table; its value is the request's key."""


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.Realize")
class Realize:
    """Build the network that `plan` describes.

    Parameters
    ----------
    plan
        Precisions, ranges, formats, kernels and threads; names must be those that Normalize and Annotate gave.
    codes
        Weights quantized elsewhere, by those names; those that it lacks are rounded to nearest.

    Raises
    ------
    InvalidValueError
        When an operator or tensor of the module is not in the plan, or codes do not fit their operator.
    NoKernelError
        When the target has no kernel for an operator at its precision.
    """

    def __init__(self, plan: Plan, codes: WeightCodes | None = None) -> None:
        self._plan = plan
        self._codes = codes
        self._features = targets.features(targets.from_tvm(plan.tvm_target()))

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        graph = read_graph(mod)
        emitter = RelaxEmitter(graph)
        emitter.emit_main(lower(graph, self._plan, self._features, self._codes))
        return finish(emitter.module(), self._features, self._plan.threads)


def finish(mod: tvm.IRModule, features: frozenset[str], threads: int = 1) -> tvm.IRModule:
    """Legalize, fuse and schedule whatever is still a plain Relax operator."""
    schedule = (
        ScheduleFloat(features=features) if threads > 1 else ScheduleFloat(features=features, parallel_elements=_NEVER)
    )
    mod = tvm.transform.Sequential(
        [
            FuseAttention(features=features, threads=threads),
            FuseNorm(features=features, threads=threads, kernel_attr=KERNEL_ATTR),
            LowerTranspose(features=features, threads=threads),
            LowerTopk(features=features, threads=threads),
            MergeReduced(),
            # TVM's default pipeline makes views of reshapes.
            relax.transform.LegalizeOps(EXTREMES, skip_ops=["relax.reshape"]),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
            schedule,
        ]
    )(mod)
    functions = {
        var: function.with_attr("op_pattern", OPAQUE) if isinstance(function, tvm.tirx.PrimFunc) else function
        for var, function in mod.functions_items()
    }
    return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


class RelaxEmitter:
    """Writes lowered steps as Relax bindings. One PrimFunc serves all steps whose kernels are equal."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._builder = relax.BlockBuilder()
        self._vars: dict[StoredValue, relax.Expr] = {}
        self._viewed: dict[relax.Expr, relax.Expr] = {}
        self._kernels: dict[tuple[str, str, str], tvm.ir.GlobalVar] = {}
        self._loop_nests = CarriedLoopNests(graph, self._builder)

    def emit_main(self, steps: list[KernelStep | FloatStep | ReshapeStep]) -> None:
        graph, builder = self._graph, self._builder
        params = [relax.Var(p.name, p.ty) for p in graph.params]
        with builder.function("main", params, attrs={"num_input": len(params)}):
            with builder.dataflow():
                self._vars = {StoredValue(n, FLOAT_BITS): v for n, v in zip(graph.inputs, params, strict=True)}
                for step in steps:
                    self._emit(step)
                results = [self._vars[StoredValue(n, FLOAT_BITS)] for n in graph.outputs]
                output = builder.emit_output(relax.Tuple(results) if graph.is_tuple else results[0])
            builder.emit_func_output(output)

    def module(self) -> tvm.IRModule:
        return self._builder.get()

    def _emit(self, step: KernelStep | FloatStep | ReshapeStep) -> None:
        if isinstance(step, FloatStep):
            binding = step.node.binding
            assert binding is not None
            value = substitute(binding.value, self._float_var, self._loop_nests)
            self._vars[StoredValue(step.node.output, FLOAT_BITS)] = self._builder.emit(value, step.node.name)
        elif isinstance(step, ReshapeStep):
            self._vars[step.output] = self._shaped(self._vars[step.input], stored_shape(self._graph, step.output))
        else:
            self._emit_kernel(step)

    def _emit_kernel(self, step: KernelStep) -> None:
        shapes = [shape for shape, _ in step.kernel.buffers]
        args = [self._shaped(self._vars[v], shape) for v, shape in zip(step.inputs, shapes, strict=False)]
        args += [relax.const(c) for c in step.kernel.constants(step.operands)]
        assert len(args) == len(shapes) - 1, f"{step.node}: {len(args)} arguments for {len(shapes) - 1} buffers"
        dtype = "float32" if step.output.bits == FLOAT_BITS else "uint8"
        call = relax.call_tir(self._global(step.kernel), args, relax.TensorType(shapes[-1], dtype))
        result = self._builder.emit(call, step.node)
        self._vars[step.output] = self._shaped(result, stored_shape(self._graph, step.output))

    def _global(self, kernel: Kernel) -> tvm.ir.GlobalVar:
        key = kernel.key
        if key not in self._kernels:
            func = kernel.build().without_attr("global_symbol").with_attr(KERNEL_ATTR, kernel.request.key)
            name = f"{kernel.request.workload.kind}_{kernel.request.precision}_{len(self._kernels)}"
            self._kernels[key] = self._builder.add_func(func, name)
        return self._kernels[key]

    def _shaped(self, value: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
        """The value under another shape; a view of a view is a view of what stands behind both."""
        whole = self._viewed.get(value, value)
        if tuple(int(d) for d in whole.ty.shape.values) == shape:
            return whole
        view = self._builder.emit(relax.op.reshape(whole, shape))
        self._viewed[view] = whole
        return view

    def _float_var(self, var: relax.Var) -> relax.Expr:
        name = self._graph.var_names.get(var)
        return var if name is None else self._vars[StoredValue(name, FLOAT_BITS)]


class CarriedLoopNests:
    """The loop nests that a graph's float nodes call, in another module once they are called there."""

    def __init__(self, graph: Graph, builder: relax.BlockBuilder) -> None:
        self._graph = graph
        self._builder = builder
        self._carried: dict[tvm.ir.GlobalVar, tvm.ir.GlobalVar] = {}

    def __call__(self, callee: tvm.ir.GlobalVar) -> tvm.ir.GlobalVar:
        if callee not in self._carried:
            function = self._graph.loop_nests[callee]
            self._carried[callee] = self._builder.add_func(function, callee.name_hint)
        return self._carried[callee]


def substitute(
    expr: relax.Expr, replace: Callable[[relax.Var], relax.Expr], loop_nests: CarriedLoopNests
) -> relax.Expr:
    """Rebuild a binding's value with its variables replaced; nested functions and control flow do not occur here.

    A constant without elements is made when the network runs: TVM writes it into a library that nothing can load.
    """
    if isinstance(expr, relax.Var):
        return replace(expr)
    if isinstance(expr, tvm.ir.GenericConst) and 0 in expr.value.shape:
        return relax.op.zeros(tuple(expr.value.shape), str(expr.value.dtype))
    if isinstance(expr, tvm.ir.GlobalVar):
        return loop_nests(expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([substitute(f, replace, loop_nests) for f in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(substitute(expr.tuple_value, replace, loop_nests), expr.index)
    if isinstance(expr, relax.Call):
        args = [substitute(a, replace, loop_nests) for a in expr.args]
        return relax.Call(expr.op, args, expr.attrs, expr.ty_args)
    return expr
