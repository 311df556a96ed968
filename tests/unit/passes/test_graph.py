"""The graph view of a normalized module."""

from __future__ import annotations

import pytest
import tvm
from tvm import relax

from mpq_testing.networks import NormalForm, residual_network
from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.passes import Annotate
from tvm_mpq.passes.graph import Graph, read_graph
from tvm_mpq.schema import ConvertWorkload


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read_graph(residual_network())


def test_nodes_in_order(graph: Graph) -> None:
    assert [(n.name, n.kind) for n in graph.nodes[1:]] == [
        ("stem", "conv2d"),
        ("block.conv1", "conv2d"),
        ("block.conv2", "conv2d"),
        ("down", "conv2d"),
        ("pool", "avg_pool2d"),
        ("flatten", "reshape"),
        ("fc", "linear"),
    ]


def test_input_layout_is_a_node_that_quantization_can_swallow(graph: Graph) -> None:
    layout = graph.nodes[0]
    assert layout.kind == "layout" and layout.inputs == graph.inputs == ("x",)
    assert layout.workload == ConvertWorkload((1, 12, 12, 3), 32, 32, channels_first=True)
    assert graph.tensors["x"].shape == (1, 3, 12, 12) and graph.tensors[layout.output].shape == (1, 12, 12, 3)


def test_weights_and_biases(graph: Graph) -> None:
    nodes = {n.name: n for n in graph.weighted()}
    assert nodes["down"].weight.shape == (33, 3, 3, 20) and nodes["down"].bias.shape == (33,)
    assert nodes["fc"].weight.shape == (10, 1, 1, 33)  # a linear layer is a 1x1 convolution


def test_producers_and_consumers(graph: Graph) -> None:
    stem = next(n for n in graph.nodes if n.name == "stem")
    assert graph.producer("x") is None
    assert graph.producer(stem.output) == stem
    assert [n.name for n in graph.consumers(stem.output)] == ["block.conv1", "block.conv2"]


def test_reshape_shares_the_range_of_its_input(graph: Graph) -> None:
    nodes = {n.name: n for n in graph.nodes}
    assert graph.quant_root(nodes["flatten"].output) == nodes["pool"].output
    assert nodes["flatten"].output not in graph.integer_tensors()
    assert nodes["pool"].output in graph.integer_tensors()
    assert "x" not in graph.integer_tensors()  # its channels-last form has the range


def test_candidates_come_from_annotate(graph: Graph) -> None:
    assert all(n.candidates == () for n in graph.nodes)
    annotated = read_graph(Annotate()(residual_network()))
    assert all("w8a8" in n.candidates for n in annotated.weighted())


def test_names_are_unique() -> None:
    def body(form: NormalForm, x: relax.Var) -> relax.Var:
        y = form.conv("conv", form.nhwc(x), 16)
        return form.conv("other", form.softmax(form.softmax(y)), 16)

    graph = read_graph(NormalForm((1, 3, 6, 6)).build(body))
    names = [n.output for n in graph.nodes]
    assert len(set(names)) == len(names)
    assert [n.kind for n in graph.nodes] == ["layout", "conv2d", "float", "float", "conv2d"]


def test_without_main() -> None:
    with pytest.raises(UnsupportedModelError, match="no function `main`"):
        read_graph(tvm.IRModule({}))


def test_without_static_shape() -> None:
    n = tvm.tirx.Var("n", "int64")
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((n, 4), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(relax.op.nn.relu(x))
        builder.emit_func_output(y)
    with pytest.raises(UnsupportedModelError, match=r"'x' has no static shape.*--batch"):
        read_graph(builder.get())
