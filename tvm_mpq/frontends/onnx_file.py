"""ONNX files: shapes fixed, operators named after the source, parameters bound as constants."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, _get_convert_map

from tvm_mpq.errors import FileFormatError, UnsupportedModelError
from tvm_mpq.frontends.checks import GenericArray, check_values, one_line
from tvm_mpq.frontends.imported import Imported, abandon
from tvm_mpq.frontends.onnx_fold import fold_integers
from tvm_mpq.frontends.onnx_names import operator_names
from tvm_mpq.frontends.onnx_operators import CONVERTERS
from tvm_mpq.frontends.shapes import Shapes

_QUANTIZED = frozenset(
    [
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    ]
)
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


def load_onnx(file: Path, shapes: Shapes) -> Imported:
    """Import `file` with static shapes.

    Raises
    ------
    FileFormatError
        If it is not an ONNX file.
    UnsupportedModelError
        For unknown operators, dynamic shapes, quantized or non-finite models.
    """
    model = _read(file)
    graph = model.graph
    _check_operators(graph, file)
    fold_integers(graph, _opset(model))
    check_values(_tensors(graph))
    initializers = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in initializers]
    static = shapes.fix({i.name: _shape(i) for i in inputs})
    for node, name in zip(graph.node, operator_names(graph), strict=True):
        node.name = name
    importer = _Importer(static)
    # The importer warns about every renamed input and prints before it raises; the errors below say it in one line.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            mod = importer.from_onnx(graph, _opset(model))
        except UnsupportedModelError as e:
            abandon(importer.bb)
            raise UnsupportedModelError(f"{file.name}: {e}") from e
        except Exception as e:
            abandon(importer.bb)
            raise UnsupportedModelError(f"{file.name}: cannot be imported: {one_line(e)}") from e
    return Imported(mod, importer.owners, tuple(i.name for i in inputs))


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


def _opset(model: onnx.ModelProto) -> int:
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def _check_operators(graph: onnx.GraphProto, file: Path) -> None:
    used = {node.op_type for node in graph.node}
    quantized = sorted(used & _QUANTIZED)
    if quantized:
        raise UnsupportedModelError(
            f"{file.name}: the model is quantized already (it holds {', '.join(quantized)}); give the float32 model"
        )
    control = sorted(used & _CONTROL_FLOW)
    if control:
        raise UnsupportedModelError(
            f"{file.name}: control flow is not supported (got {', '.join(control)}); export the model without branches"
        )
    unknown = sorted(used - set(_get_convert_map()) - {"Constant"})
    if unknown:
        raise UnsupportedModelError(
            f"{file.name}: unknown operator{'s' * (len(unknown) > 1)} {', '.join(unknown)}; "
            "export the model with standard ONNX operators"
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, GenericArray]]:
    for tensor in graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], numpy_helper.to_array(attribute.t)


def _shape(value: onnx.ValueInfoProto) -> list[int | str | None] | None:
    """int for a fixed axis, the symbol's name or None for a dynamic one; None for an unknown rank."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [d.dim_value if d.dim_value > 0 else d.dim_param or None for d in tensor.shape.dim]


class _Importer(ONNXGraphImporter):
    """TVM's importer, with our converters where TVM's hide the operator, and with a record of who made which variable.

    `owners`: name of the variable that holds a node's result -> the node's name.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__({name: list(shape) for name, shape in shapes.items()}, None)
        self.owners: dict[str, str] = {}

    def _convert_operator(self, op_name: str, inputs: list[Any], attrs: dict[str, Any], opset: int) -> Any:
        node = attrs["tvm_custom"]["name"]
        try:
            ours = CONVERTERS.get(op_name)
            result = ours(inputs, attrs) if ours else None
            if result is None:
                result = super()._convert_operator(op_name, inputs, attrs, opset)
            if isinstance(result, relax.Call):
                result = self.bb.emit(result)
        except Exception as e:
            raise UnsupportedModelError(f"operator {op_name} (node {node!r}) cannot be imported: {one_line(e)}") from e
        results = list(result.fields) if isinstance(result, relax.Tuple) else [result]
        made = [r for r in results if isinstance(r, relax.Var)]
        if made:
            self.owners.setdefault(str(made[-1].name), node)
        return result
