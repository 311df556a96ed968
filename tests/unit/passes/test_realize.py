"""Realize: a plan becomes a module that TVM compiles; the caller's module stays as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from mpq_testing.networks import residual_network
from tvm_mpq.errors import InvalidValueError
from tvm_mpq.execute.host_runtime import float_module
from tvm_mpq.execute.network import realize, weight_bytes
from tvm_mpq.execute.prepare import prepare
from tvm_mpq.passes import Annotate, Normalize, Realize
from tvm_mpq.passes.graph import read_graph
from tvm_mpq.passes.lowering import KernelStep, lower
from tvm_mpq.passes.realize import KERNEL_ATTR, finish
from tvm_mpq.schema import Plan, TensorQuant
from tvm_mpq.targets import features, local_row, to_tvm_attrs


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A mix, with ranges that fit normal inputs roughly."""
    graph = read_graph(residual_network())
    operators = {n.name: "w8a8" for n in graph.weighted()} | {"block.conv1": "w4a8", "down": "fp32"}
    ranges = {t: [TensorQuant(8, 0.0625, 100)] for t in graph.integer_tensors()}
    return Plan(local_row().name, to_tvm_attrs(local_row(), 1), operators, ranges)


def run(mod: tvm.IRModule, plan: Plan, x: np.ndarray) -> np.ndarray:
    machine = relax.VirtualMachine(tvm.compile(mod, target=plan.tvm_target()), tvm.cpu())
    return np.asarray(machine["main"](tvm.runtime.tensor(x)).numpy())


def parallel_loops(mod: tvm.IRModule) -> int:
    return sum(f.script().count("T.parallel(") for f in mod.functions.values() if isinstance(f, tvm.tirx.PrimFunc))


def test_input_is_unchanged(plan: Plan) -> None:
    mod = Annotate()(residual_network())
    before = mod.script(show_meta=True)
    Realize(plan)(mod)
    assert mod.script(show_meta=True) == before


def test_twice_the_same(plan: Plan) -> None:
    """Nothing depends on the order of sets or on what was realized before."""
    mod = Annotate()(residual_network())
    tvm.ir.assert_structural_equal(Realize(plan)(mod), Realize(plan)(mod))


def test_signature_stays(plan: Plan) -> None:
    before, after = residual_network()["main"], Realize(plan)(Annotate()(residual_network()))["main"]
    assert [p.name for p in after.params] == [p.name for p in before.params]
    tvm.ir.assert_structural_equal(after.ret_ty, before.ret_ty)


def test_what_runs_is_what_was_lowered(plan: Plan) -> None:
    """One PrimFunc per distinct kernel, marked with its request; equal kernels share one."""
    mod = Realize(plan)(Annotate()(residual_network()))
    steps = lower(read_graph(Annotate()(residual_network())), plan, features(local_row()))
    wanted = {s.kernel.request.key for s in steps if isinstance(s, KernelStep)}
    found = [f.attrs[KERNEL_ATTR] for f in mod.functions.values() if f.attrs is not None and KERNEL_ATTR in f.attrs]
    assert sorted(map(str, found)) == sorted(wanted)
    seen: list[relax.Expr] = []
    relax.analysis.post_order_visit(mod["main"], seen.append)
    assert weight_bytes(steps) == sum(e.value.numpy().nbytes for e in seen if isinstance(e, tvm.ir.GenericConst))


def test_the_threads_are_the_plans(plan: Plan) -> None:
    """Four threads by the passes are what `build` makes for four threads; one thread is other code."""
    mod = residual_network()
    four = dataclasses.replace(plan, tvm_target_attrs={**plan.tvm_target_attrs, "num-cores": 4})
    by_passes = tvm.transform.Sequential([Normalize(), Annotate(target=four.tvm_target()), Realize(four)])(mod)
    by_build = realize(prepare(mod, threads=4), four)
    tvm.ir.assert_structural_equal(by_passes, by_build)
    assert parallel_loops(by_passes) > 0 == parallel_loops(Realize(plan)(Annotate()(mod)))
    by_name = relax.get_pipeline("tvm_mpq", plan=four)(mod)
    assert parallel_loops(by_name) == parallel_loops(relax.pipeline.default_build_pipeline()(by_passes))


@pytest.mark.parametrize(("threads", "parallel"), [(1, False), (4, True)])
def test_float_code_has_the_plans_threads_too(threads: int, parallel: bool) -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((256, 1024), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(relax.op.nn.softmax(x))
        builder.emit_func_output(y)
    plan = Plan(local_row().name, to_tvm_attrs(local_row(), threads), {}, {})
    assert (parallel_loops(Realize(plan)(Normalize()(builder.get()))) > 0) == parallel


def test_the_compile_script_of_the_readme(plan: Plan, tmp_path: Path) -> None:
    """A saved plan, the three passes in a row, and TVM's pipeline of our name all give one network."""
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    mod = residual_network()
    passes = tvm.transform.Sequential([Normalize(), Annotate(), Realize(loaded)])
    x = np.random.default_rng(0).normal(size=(1, 3, 12, 12)).astype(np.float32)
    y = run(passes(mod), loaded, x)
    assert y.shape == (1, 10) and np.isfinite(y).all() and np.ptp(y) > 0
    executable = tvm.compile(mod, target=loaded.tvm_target(), relax_pipeline=relax.get_pipeline("tvm_mpq", plan=loaded))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    np.testing.assert_array_equal(machine["main"](tvm.runtime.tensor(x)).numpy(), y)


def test_operators_that_do_not_match(plan: Plan) -> None:
    mod = Annotate()(residual_network())
    for operators in (
        {**plan.operators, "attention": "w8a8"},
        {k: v for k, v in plan.operators.items() if k != "stem"},
    ):
        with pytest.raises(InvalidValueError, match=r"'attention'|'stem'") as caught:
            Realize(dataclasses.replace(plan, operators=operators))(mod)
        assert "\n" not in str(caught.value)


def test_loop_nests_and_constant_results_of_an_importer_are_kept() -> None:
    """In the realized module and in the interpreter's."""
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            flipped = builder.emit_te(tvm.topi.flip, builder.emit(relax.op.exp(x)), axis=1)
            results = builder.emit_output(relax.Tuple([flipped, relax.const(np.float32([7, 8]))]))
        builder.emit_func_output(results)
    prepared = prepare(builder.get())
    plan = Plan(prepared.row.name, prepared.tvm_target_attrs, {}, {})
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    wanted = np.exp(value)[:, ::-1]
    machine = relax.VirtualMachine(tvm.compile(realize(prepared, plan), target=plan.tvm_target()), tvm.cpu())
    found, constant = machine["main"](tvm.runtime.tensor(value))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)
    np.testing.assert_array_equal(constant.numpy(), np.float32([7, 8]))
    nodes = prepared.graph.nodes
    runtime = tvm.compile(finish(float_module(prepared.graph, nodes), prepared.features), target=plan.tvm_target())
    functions = relax.VirtualMachine(runtime, tvm.cpu())
    through = tvm.runtime.tensor(value)
    for i, node in enumerate(nodes):
        result = functions[f"float_{i}"](*([through] if node.inputs else []))
        if node.inputs:
            through = result
    np.testing.assert_allclose(through.numpy(), wanted, rtol=1e-6)
    np.testing.assert_array_equal(result.numpy(), np.float32([7, 8]))


def test_a_loop_nest_of_operands_that_do_not_broadcast_is_nobody_elses() -> None:
    """An Einsum of two tensors is no maximum of them."""
    x, w = (relax.Var(n, relax.TensorType(s, "float32")) for n, s in (("x", (1, 6, 16)), ("w", (16, 2, 8))))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w]):
        with builder.dataflow():
            out = builder.emit_output(builder.call_te(tvm.topi.einsum, "bld,dhk->bhlk", x, w))
        builder.emit_func_output(out)
    (node,) = prepare(builder.get()).graph.nodes
    assert node.kind == "float" and node.inputs == ("x", "w")
