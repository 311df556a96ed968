"""What a network consists of, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterable

from tvm_mpq.execute.prepare import Prepared, prepare
from tvm_mpq.kernels import Request, fitting
from tvm_mpq.passes.graph import WEIGHTED_KINDS, Node
from tvm_mpq.pipeline.options import Options
from tvm_mpq.report.answers import InspectedOperator, InspectReport, LeftOut
from tvm_mpq.schema import FLOAT_BITS, Precision


def inspect(options: Options) -> InspectReport:
    """Operators in order with kind, workload, multiply-accumulates, parameters and candidate precisions."""
    prepared = prepare(
        options.model,
        target=options.target,
        threads=options.threads or 1,
        example_inputs=options.example_inputs,
        batch=options.batch,
        input_shapes=options.input_shapes,
        offered=options.offered,
        requantize=options.requantize,
    )
    operators: list[InspectedOperator] = []
    for node in prepared.graph.nodes:
        operators.append(
            {
                "name": node.name,
                "kind": node.kind,
                "workload": node.workload.key if node.workload else "",
                "shape": list(prepared.graph.tensors[node.output].shape),
                "macs": int(getattr(node.workload, "macs", 0)),
                "parameters": _parameters(node),
                "candidates": list(node.candidates),
            }
        )
    return {
        "model": prepared.loaded.name,
        "target": prepared.row.name,
        "inputs": {name: (list(shape), dtype) for name, (shape, dtype) in prepared.inputs.items()},
        "notes": list(prepared.loaded.notes),
        "operators": operators,
        "left_out": left_out(prepared, options.offered),
        "totals": {
            "operators": len(operators),
            "quantizable": sum(1 for o in operators if o["candidates"]),
            "macs": sum(o["macs"] for o in operators),
            "parameters": sum(o["parameters"] for o in operators),
        },
    }


SAME_CODE, SLOWER, NO_KERNEL = "same code", "floats as fast", "no kernel"


def left_out(prepared: Prepared, offered: Iterable[Precision]) -> list[LeftOut]:
    """Of the precisions that could be chosen those that are no candidates of some operators, most bits first."""
    found: dict[tuple[Precision, str], int] = {}
    for node in prepared.graph.quantizable():
        for precision in sorted(offered, reverse=True):
            if str(precision) not in node.candidates:
                reason = _reason(prepared, node, precision)
                found[precision, reason] = found.get((precision, reason), 0) + 1
    rows = sorted(found.items(), key=lambda row: row[0][0], reverse=True)
    return [{"precision": str(p), "reason": reason, "operators": count} for (p, reason), count in rows]


def _reason(prepared: Prepared, node: Node, precision: Precision) -> str:
    """Why `candidate_precisions` leaves it out."""
    out_bits = FLOAT_BITS if node.quantizable.is_float_at(precision) else 8
    rows = fitting(Request(node.quantizable, precision, out_bits, prepared.features, prepared.threads))
    if not rows:
        return NO_KERNEL
    return SAME_CODE if rows[0].offered else SLOWER


def _parameters(node: Node) -> int:
    """Weights and biases."""
    if node.kind in WEIGHTED_KINDS:
        return node.conv.weight_count + node.conv.out_channels
    return 0 if node.weight is None or node.bias is None else node.weight.size + node.bias.size
