"""ONNX files: shapes fixed, operators named after the source, parameters bound as constants."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from tvm_mpq.errors import FileFormatError, UnsupportedModelError
from tvm_mpq.frontends.checks import check_values, one_line
from tvm_mpq.frontends.imported import Imported, abandon
from tvm_mpq.frontends.onnx_floats import read_as_float32
from tvm_mpq.frontends.onnx_fold import RANDOM
from tvm_mpq.frontends.onnx_functions import check_domains, inlined
from tvm_mpq.frontends.onnx_names import operator_names
from tvm_mpq.frontends.onnx_nodes import STANDARD, VersionedNode, schema_of
from tvm_mpq.frontends.onnx_operators import CONVERTERS, is_known, needs_body
from tvm_mpq.frontends.onnx_qdq import dequantized
from tvm_mpq.frontends.onnx_qoperators import QUANTIZED
from tvm_mpq.frontends.onnx_reference import OnnxReference
from tvm_mpq.frontends.onnx_rnn import without_unused_outputs
from tvm_mpq.frontends.onnx_walk import Walk, Walked
from tvm_mpq.frontends.shapes import Declared, Shapes
from tvm_mpq.schema import StoredQuantization

_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


def load_onnx(file: Path, shapes: Shapes) -> Imported:
    """Import `file` with static shapes.

    Raises
    ------
    FileFormatError
        If it is not an ONNX file.
    UnsupportedModelError
        For unknown operators and domains, dynamic shapes, and non-finite models.
    """
    model, notes, stored = _static(file, shapes.fix)
    graph = model.graph
    inputs = _inputs(graph)
    static = {i.name: tuple(int(d.dim_value) for d in i.type.tensor_type.shape.dim) for i in inputs}
    try:
        walked = Walk(graph, _versions(model), operator_names(graph), needs_body).run()
    except UnsupportedModelError as e:
        raise UnsupportedModelError(f"{file.name}: {e}") from e
    notes += walked.notes
    _check_operators(walked.nodes, file)
    check_values((name, numpy_helper.to_array(t)) for name, t in walked.constants.items())
    importer = _Importer(static, walked.nodes)
    # The importer warns about every renamed input and prints before it raises; the errors below say it in one line.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            mod = importer.from_onnx(_graph(walked, inputs, list(graph.output)), _versions(model).get("", 1))
        except UnsupportedModelError as e:
            abandon(importer.bb)
            raise UnsupportedModelError(f"{file.name}: {e}") from e
        except Exception as e:
            abandon(importer.bb)
            raise UnsupportedModelError(f"{file.name}: cannot be imported: {one_line(e)}") from e
    reference = OnnxReference(lambda: _static(file, lambda _: static)[0])
    names = tuple(i.name for i in inputs)
    if stored is not None:
        made = importer.made | {n: str(p.name) for n, p in zip(names, mod["main"].params, strict=True)}
        stored = _by_variable(stored, made, walked.nodes)
    return Imported(mod, importer.owners, names, notes, importer.tensors, reference, stored)


def _by_variable(
    stored: StoredQuantization, made: Mapping[str, str], nodes: Sequence[VersionedNode]
) -> StoredQuantization:
    """Tensors by their variable, weights by that of the operator which reads them."""
    found = StoredQuantization({made[name]: quant for name, quant in stored.tensors.items() if name in made})
    for item in nodes:
        for name in item.node.input:
            if name in stored.weights and item.node.output[0] in made:
                found.weights[made[item.node.output[0]]] = stored.weights[name]
    return found


def _static(
    file: Path, sizes: Callable[[dict[str, Declared]], Mapping[str, tuple[int, ...]]]
) -> tuple[onnx.ModelProto, list[str], StoredQuantization | None]:
    """The file's model with inputs of fixed sizes, float32, without functions of its own; notes; its own integers."""
    model = inlined(_read(file), file.name)
    stored = dequantized(model, file.name)
    check_domains(model, file.name)
    notes = read_as_float32(model)
    if stored is not None:
        notes.append("the network was quantized elsewhere: its weights are read as the float32 numbers they stand for")
    inputs = _inputs(model.graph)
    static = sizes({i.name: _shape(i) for i in inputs})
    for i in inputs:
        i.CopyFrom(helper.make_tensor_value_info(i.name, i.type.tensor_type.elem_type, static[i.name]))
    return model, notes, stored


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Those that the network takes when it runs."""
    initializers = {t.name for t in graph.initializer}
    return [i for i in graph.input if i.name not in initializers]


def _graph(
    walked: Walked, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
) -> onnx.GraphProto:
    """What TVM's importer reads; a node is called by its place in `walked.nodes`."""
    nodes = []
    for place, item in enumerate(walked.nodes):
        node = onnx.NodeProto()
        node.CopyFrom(item.node)
        node.name = str(place)
        nodes.append(node)
    without_unused_outputs(nodes, [o.name for o in outputs])
    return helper.make_graph(nodes, "main", inputs, outputs, list(walked.constants.values()))


def _read(file: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(file))
    except (OSError, onnx.checker.ValidationError) as e:  # weights in a second file that is not there
        raise FileFormatError(f"{str(file)!r} cannot be read: {one_line(e)}") from e
    except Exception as e:  # protobuf's DecodeError, whose package is not ours to import
        raise FileFormatError(f"{str(file)!r} is not an ONNX file, or is damaged ({one_line(e)})") from e
    if not model.graph.node:
        raise FileFormatError(f"{str(file)!r} is not an ONNX file with a network (it holds no operators)")
    if not model.graph.output:
        raise FileFormatError(f"{str(file)!r} is not an ONNX file with a network (it has no outputs)")
    return model


def _versions(model: onnx.ModelProto) -> dict[str, int]:
    """Domain to opset; "" for ONNX's own."""
    return {"" if o.domain in STANDARD else o.domain: int(o.version) for o in model.opset_import}


def _check_operators(nodes: Sequence[VersionedNode], file: Path) -> None:
    used = {item.node.op_type for item in nodes}
    quantized = sorted(name for domain, name in QUANTIZED if not domain and name in used)
    if quantized:
        raise UnsupportedModelError(
            f"{file.name}: the model is quantized in a way that is not read (it holds {', '.join(quantized)} of "
            "integers that come from outside); give the float32 model"
        )
    control = sorted(used & _CONTROL_FLOW)
    if control:
        raise UnsupportedModelError(
            f"{file.name}: control flow is not supported (got {', '.join(control)}); export the model without branches"
        )
    unknown = {item.node.op_type: item for item in nodes if not is_known(item.node.op_type)}
    random = sorted(RANDOM & set(unknown))
    if random:
        raise UnsupportedModelError(
            f"{file.name}: {', '.join(random)} makes random numbers, which a compiled network does not; export the "
            "model for inference"
        )
    lacking = sorted(name for name, item in unknown.items() if schema_of(item.node, item.opset) is not None)
    if lacking:
        raise UnsupportedModelError(
            f"{file.name}: operator{'s' * (len(lacking) > 1)} {', '.join(lacking)} of ONNX cannot be compiled here; "
            "write the model with others, or end it before them"
        )
    if unknown:
        raise UnsupportedModelError(
            f"{file.name}: unknown operator{'s' * (len(unknown) > 1)} {', '.join(sorted(unknown))}; "
            "export the model with standard ONNX operators"
        )


def _shape(value: onnx.ValueInfoProto) -> list[int | str | None] | None:
    """int for a fixed axis, the symbol's name or None for a dynamic one; None for an unknown rank."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param or None for d in tensor.shape.dim
    ]


class _Importer(ONNXGraphImporter):
    """TVM's importer, with our converters where TVM's hide the operator, and with a record of who made which variable.

    `owners`: name of the variable that holds a node's result -> the node's name; `tensors`: variable -> tensor; `made`:
    tensor -> variable, also where several have one.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], nodes: Sequence[VersionedNode]) -> None:
        super().__init__({name: list(shape) for name, shape in shapes.items()}, None)
        self._sources = nodes
        self.owners: dict[str, str] = {}
        self.tensors: dict[str, str] = {}
        self.made: dict[str, str] = {}

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        """Done before, with what ours read beside TVM's."""

    def _convert_operator(self, op_name: str, inputs: list[Any], attrs: dict[str, Any], opset: int) -> Any:
        item = self._sources[int(attrs["tvm_custom"]["name"])]
        try:
            ours = CONVERTERS.get(op_name)
            result = ours(inputs, attrs) if ours else None
            if result is None:
                result = super()._convert_operator(op_name, inputs, attrs, item.opset)
            if isinstance(result, relax.Call):
                result = self.bb.emit(result)
        except Exception as e:
            raise UnsupportedModelError(
                f"operator {op_name} (node {item.source!r}) cannot be imported: {one_line(e)}"
            ) from e
        results = list(result.fields) if isinstance(result, relax.Tuple) else [result]
        made = [r for r in results if isinstance(r, relax.Var)]
        for tensor, r in zip(item.node.output, results, strict=False):
            if isinstance(r, relax.Var):
                self.made[tensor] = str(r.name)
        if made:
            self.owners.setdefault(str(made[-1].name), item.source)
        for variable, tensor in zip(results, item.node.output, strict=False):
            if isinstance(variable, relax.Var):
                self.tensors.setdefault(str(variable.name), tensor)
        return result
