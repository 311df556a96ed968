"""Lowering: which kernels run in which formats, and where boundaries stand."""

from __future__ import annotations

import dataclasses

import pytest
from tvm import relax

from mpq_testing.networks import NormalForm, residual_network
from tvm_mpq.errors import InvalidValueError, NoKernelError
from tvm_mpq.kernels.registry import Request, default_kernel, fitting
from tvm_mpq.passes import Annotate
from tvm_mpq.passes.graph import Graph, read_graph
from tvm_mpq.passes.lowering import (
    FloatStep,
    KernelStep,
    ReshapeStep,
    Step,
    StoredValue,
    kernel_chooser,
    lower,
    stored_shape,
)
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload, Plan, Precision, TensorQuant
from tvm_mpq.targets import features, local_row, resolve

FEATURES = features(local_row())


def plan_for(graph: Graph, default: str, **others: str) -> Plan:
    """Dots in names are written as two underscores."""
    named = {name.replace("__", "."): text for name, text in others.items()}
    operators = {n.name: named.get(n.name, default) for n in graph.weighted()}
    ranges = {t: [TensorQuant(8, 0.03125, 100)] for t in graph.integer_tensors()}
    return Plan("local", {}, operators, ranges)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read_graph(Annotate()(residual_network()))


def names(steps: list[Step]) -> list[str]:
    return [s.node.name if isinstance(s, FloatStep) else s.node for s in steps]


def boundaries(steps: list[Step]) -> list[str]:
    return [name for name in names(steps) if ":" in name]


def lowered(graph: Graph, plan: Plan) -> list[Step]:
    return lower(graph, plan, FEATURES)


def test_all_float_converts_nothing_but_the_layout(graph: Graph) -> None:
    steps = lowered(graph, plan_for(graph, "fp32"))
    assert len(boundaries(steps)) == 1
    assert all(s.output.bits == FLOAT_BITS for s in steps if not isinstance(s, FloatStep))


def test_all_integer_quantizes_once_and_ends_in_float(graph: Graph) -> None:
    """The quantization swallows the input's change of layout; the classifier emits float32 itself."""
    steps = lowered(graph, plan_for(graph, "w8a8"))
    (boundary,) = boundaries(steps)
    first, last = steps[0], steps[-1]
    assert isinstance(first, KernelStep) and isinstance(last, KernelStep)
    assert first.node == boundary and first.inputs == (StoredValue("x", FLOAT_BITS),)
    assert first.kernel.request.workload.channels_first
    assert last.node == "fc" and last.output.bits == FLOAT_BITS
    assert [s.output.bits for s in steps[:-1]] == [8] * (len(steps) - 1)  # type: ignore[union-attr]


def test_a_float_operator_among_integers_pays_boundaries(graph: Graph) -> None:
    steps = lowered(graph, plan_for(graph, "w8a8", block__conv1="fp32"))
    stem = next(n for n in graph.nodes if n.name == "stem").output
    conv1 = next(n for n in graph.nodes if n.name == "block.conv1").output
    assert boundaries(steps)[1:] == [f"{stem}:8->32", f"{conv1}:32->8"]


def test_a_copy_is_made_once_for_all_readers(graph: Graph) -> None:
    """The stem in floats, both of its readers in integers: one quantization."""
    steps = lowered(graph, plan_for(graph, "w8a8", stem="fp32"))
    stem = next(n for n in graph.nodes if n.name == "stem").output
    assert boundaries(steps).count(f"{stem}:32->8") == 1


def test_every_value_is_made_before_it_is_read(graph: Graph) -> None:
    for default, other in (("fp32", "w8a8"), ("w8a8", "fp32"), ("w4a8", "fp32")):
        steps = lowered(graph, plan_for(graph, default, block__conv2=other, fc=other))
        made = {StoredValue("x", FLOAT_BITS)}
        for step in steps:
            assert isinstance(step, (KernelStep, ReshapeStep))
            inputs = step.inputs if isinstance(step, KernelStep) else (step.input,)
            assert set(inputs) <= made
            assert step.output not in made, "made twice"
            made.add(step.output)


def test_formats_of_the_plan_win(graph: Graph) -> None:
    stem = next(n for n in graph.nodes if n.name == "stem").output
    plan = dataclasses.replace(plan_for(graph, "w8a8"), formats={stem: FLOAT_BITS})
    steps = lowered(graph, plan)
    made = [s.output.bits for s in steps if isinstance(s, KernelStep) and s.node == "stem"]
    assert made == [FLOAT_BITS] and f"{stem}:32->8" in boundaries(steps)


def test_kernels_of_the_plan_win(graph: Graph) -> None:
    plan = plan_for(graph, "w8a8")
    step = next(s for s in lowered(graph, plan) if isinstance(s, KernelStep) and s.node == "down")
    family = step.kernel.family
    knobs = family.knob_space(step.kernel.request)[-1]
    rows = {step.kernel.request.key: {"family": family.name, "knobs": knobs}}
    steps = lowered(graph, dataclasses.replace(plan, kernels=rows))
    chosen = next(s for s in steps if isinstance(s, KernelStep) and s.node == "down")
    assert chosen.kernel.knobs == knobs
    others = [s.kernel for s in steps if isinstance(s, KernelStep) and s.node == "stem"]
    assert others == [default_kernel(others[0].request)]


@pytest.mark.parametrize("change", [{"height": 1}, {}, {"rows": 0}, {"rows": 3, "columns": 97}])
def test_knobs_that_the_row_does_not_offer_are_refused(graph: Graph, change: dict[str, int]) -> None:
    """A plan may be of a version with other knobs, or a hand may have changed it; such a tile could leave its map."""
    plan = plan_for(graph, "w8a8")
    kernel = next(s.kernel for s in lowered(graph, plan) if isinstance(s, KernelStep) and s.node == "down")
    knobs = {name: value for name, value in kernel.knobs.items() if name != "rows"} | change
    assert len(kernel.knobs) > 1 and "rows" in kernel.knobs
    rows = {kernel.request.key: {"family": kernel.family.name, "knobs": knobs}}
    with pytest.raises(NoKernelError, match=r"has the knobs .*'rows'.* and offers conv2d\(.* not those of the plan"):
        lowered(graph, dataclasses.replace(plan, kernels=rows))


def test_knobs_chosen_for_other_threads_are_taken() -> None:
    """Spaces are cut to what is fast at a number of threads; what was chosen at another is right all the same."""
    linear = Conv2dWorkload(1, 1, 3, 2048, 336, (1, 1))
    one = Request(linear, Precision(4, 8), 8, features(resolve("znver4")), 1)
    family, two = fitting(one)[0], dataclasses.replace(one, threads=2)
    other = next(knobs for knobs in family.knob_space(two) if knobs not in family.knob_space(one))
    plan = Plan("znver4", {}, {}, {}, kernels={one.key: {"family": family.name, "knobs": other}})
    assert kernel_chooser(plan)(one).knobs == other


def test_stored_shapes(graph: Graph) -> None:
    down = next(n for n in graph.nodes if n.name == "down").output
    assert stored_shape(graph, StoredValue(down, FLOAT_BITS)) == (1, 6, 6, 33)
    assert stored_shape(graph, StoredValue(down, 8)) == (1, 6, 6, 48)


def test_float_operators_read_and_write_floats() -> None:
    def body(form: NormalForm, x: relax.Var) -> relax.Var:
        return form.conv("second", form.softmax(form.conv("first", form.nhwc(x), 16)), 16)

    graph = read_graph(Annotate()(NormalForm((1, 3, 6, 6)).build(body)))
    steps = lowered(graph, plan_for(graph, "w8a8"))
    position = next(i for i, s in enumerate(steps) if isinstance(s, FloatStep))
    before, after = steps[position - 1], steps[position + 1]
    assert isinstance(before, KernelStep) and before.node == "first" and before.output.bits == FLOAT_BITS
    assert isinstance(after, KernelStep) and after.output.bits == 8 and after.inputs[0].bits == FLOAT_BITS


def test_an_operator_the_plan_lacks(graph: Graph) -> None:
    plan = plan_for(graph, "w8a8")
    rest = {k: v for k, v in plan.operators.items() if k != "down"}
    with pytest.raises(InvalidValueError, match="'down'") as caught:
        lowered(graph, dataclasses.replace(plan, operators=rest))
    assert "\n" not in str(caught.value)


def test_an_operator_the_network_lacks(graph: Graph) -> None:
    plan = plan_for(graph, "w8a8")
    with pytest.raises(InvalidValueError, match="'up'") as caught:
        lowered(graph, dataclasses.replace(plan, operators={**plan.operators, "up": "w8a8"}))
    assert "\n" not in str(caught.value)


def test_a_tensor_the_network_lacks(graph: Graph) -> None:
    with pytest.raises(InvalidValueError, match="'elsewhere'"):
        lowered(graph, dataclasses.replace(plan_for(graph, "w8a8"), formats={"elsewhere": 8}))


def test_a_range_the_plan_lacks(graph: Graph) -> None:
    plan = plan_for(graph, "w8a8")
    with pytest.raises(InvalidValueError, match=r"no 8 bit range for tensor .*calibrate"):
        lowered(graph, dataclasses.replace(plan, tensors={}))


def test_a_kernel_the_target_lacks(graph: Graph) -> None:
    with pytest.raises(NoKernelError, match="conv2d"):
        lowered(graph, plan_for(graph, "bf16"))
