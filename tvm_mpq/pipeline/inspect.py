"""What a network consists of, before anything is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from tvm_mpq.execute.prepare import Prepared, prepare
from tvm_mpq.kernels import candidacy
from tvm_mpq.passes.graph import WEIGHTED_KINDS, Node
from tvm_mpq.pipeline.options import Options
from tvm_mpq.report.answers import InspectedOperator, InspectReport, LeftOut
from tvm_mpq.schema import LeftOutReason, Precision


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


def left_out(prepared: Prepared, offered: Collection[Precision]) -> list[LeftOut]:
    """Of the precisions that could be chosen those that are no candidates of some operators, most bits first."""
    found = Counter[tuple[Precision, LeftOutReason]]()
    for node in prepared.graph.quantizable():
        reasons = candidacy(node.quantizable, prepared.features, prepared.threads, offered)
        found.update((precision, reason) for precision, reason in reasons.items() if reason is not None)
    rows = sorted(found.items(), key=lambda row: row[0][0], reverse=True)
    return [{"precision": str(p), "reason": reason, "operators": count} for (p, reason), count in rows]


def _parameters(node: Node) -> int:
    """Weights and biases."""
    if node.kind in WEIGHTED_KINDS:
        return node.conv.weight_count + node.conv.out_channels
    return 0 if node.weight is None or node.bias is None else node.weight.size + node.bias.size
