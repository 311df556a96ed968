"""The selection problem of one network: which kernels can run where, what each costs, what each loses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from tvm_mpq.costs.float_writers import may_wait
from tvm_mpq.kernels.registry import Request, fitting
from tvm_mpq.passes.graph import FLOAT_KINDS, QUANTIZABLE_KINDS, TIED_KINDS, WEIGHTED_KINDS, Graph, Node
from tvm_mpq.passes.lowering import BYTE, conversion_request, request_for
from tvm_mpq.schema import FLOAT_BITS, FP32, W8A8, Precision
from tvm_mpq.select.problem import Choice, Operator, Problem, Tensor, emitted_class

WEIGHTLESS_FLOAT, WEIGHTLESS_INTEGER = "fp32", "a8"
"""Labels of operators that have no weights: they run in floats or on whatever integers their tensors hold."""


@dataclass(frozen=True)
class Space:
    """Every request a network may need on a target, before anything is measured or chosen."""

    graph: Graph
    features: frozenset[str]
    threads: int

    def requests(self) -> list[Request]:
        """Distinct requests, in the network's order."""
        found: dict[str, Request] = {}
        for node in self.graph.nodes:
            for request in self.node_requests(node):
                found.setdefault(request.key, request)
        for name in self.graph.tensors:
            for request in self.conversions(name).values():
                found.setdefault(request.key, request)
        return list(found.values())

    def later(self) -> set[str]:
        """Keys of requests that no plan needs unless it has an operator write floats where bytes would do."""
        nodes = [node for node in self.graph.nodes if node.kind in QUANTIZABLE_KINDS]
        found = {r.key: r for node in nodes for r in self.node_requests(node)}
        needed = {r.key for node in nodes if not self._may_write_bytes(node) for r in self.node_requests(node)}
        return {key for key, r in found.items() if key not in needed and may_wait(r, set(found))}

    def _may_write_bytes(self, node: Node) -> bool:
        return node.output not in self.graph.outputs and self.formats(node.output) != (FLOAT_BITS,)

    def node_requests(self, node: Node) -> Iterator[Request]:
        for options in self.options(node).values():
            yield from options.values()

    def options(self, node: Node) -> dict[str, dict[int, Request]]:
        """Label -> (emitted class: 32 or 8) -> request, for what has a kernel."""
        if node.kind in QUANTIZABLE_KINDS:
            offered = {text: Precision.parse(text) for text in node.candidates}
        elif node.kind in ("float", "layout", "reshape"):
            return {}
        else:
            offered = {WEIGHTLESS_FLOAT: FP32, WEIGHTLESS_INTEGER: W8A8}
        options: dict[str, dict[int, Request]] = {}
        assert node.workload is not None
        for label, precision in offered.items():
            chosen, floats = node.kind in QUANTIZABLE_KINDS, node.workload.is_float_at(precision)
            emitted = (FLOAT_BITS,) if floats else ((BYTE, FLOAT_BITS) if chosen else (BYTE,))
            asked = {bits: request_for(node.workload, precision, bits, self.features, self.threads) for bits in emitted}
            options[label] = {bits: request for bits, request in asked.items() if fitting(request)}
        return {label: requests for label, requests in options.items() if requests}

    def formats(self, name: str) -> tuple[int, ...]:
        """Formats in which this tensor may be stored."""
        producer = self.graph.producer(name)
        users = [*self.graph.consumers(name), *([producer] if producer else [])]
        if self.graph.tensors[name].dtype != "float32" or all(
            n.kind in FLOAT_KINDS or n.kind == "layout" for n in users
        ):
            return (FLOAT_BITS,)
        return (FLOAT_BITS, *self.graph.activation_bits)

    def conversions(self, name: str) -> dict[tuple[int, int], Request]:
        """(from, to) -> boundary request. Behind the layout change at the input, all formats come from the input."""
        producer = self.graph.producer(name)
        shape = self.graph.tensors[name].shape
        formats = self.formats(name)
        layout = producer is not None and producer.kind == "layout"
        found = {}
        for source in formats:
            for to in formats:
                if source != to or layout:
                    origin = FLOAT_BITS if layout else source
                    request = conversion_request(shape, origin, to, layout, self.features, self.threads)
                    if fitting(request):
                        found[source, to] = request
        return found


class Costs(Protocol):
    """What requests cost beside time."""

    def size_bytes(self, request: Request) -> int:
        """What the constants of an operator with weights take."""

    def energy_mj(self, request: Request) -> float | None:
        """Millijoule, None where nobody knows."""


def build_problem(
    space: Space,
    latency_us: Callable[[Request], float],
    costs: Costs,
    losses: Mapping[tuple[str, str], float],
    *,
    fixed_us: float,
    call_us: float,
) -> Problem:
    """Tables for the solver.

    Parameters
    ----------
    latency_us
        Median microseconds of a request; infinite for what cannot run.
    costs
        Size and energy. A choice has the energy of emitting integers where it can; boundaries have none.
    losses
        (operator, precision text) -> loss; absent means 0 (fp32), and what is infinite is not offered.
    fixed_us
        Time of operators that are not chosen here, and of entering the library.
    """
    graph = space.graph
    operators, tensors = [], []
    for name in graph.inputs:
        tensors.append(_tensor(space, name, latency_us, fixed=FLOAT_BITS))
    for node in graph.nodes:
        tensors.append(_tensor(space, node.output, latency_us))
        choices = tuple(_choices(space, node, latency_us, costs, losses))
        exact = tuple(node.kind in QUANTIZABLE_KINDS and i < node.exact_inputs for i in range(len(node.inputs)))
        operators.append(Operator(node.name, node.inputs, node.output, choices, exact, node.workload))
    return Problem(tuple(operators), tuple(tensors), fixed_us, call_us)


def _tensor(space: Space, name: str, latency_us: Callable[[Request], float], fixed: int | None = None) -> Tensor:
    producer = space.graph.producer(name)
    costs = {pair: latency_us(request) for pair, request in space.conversions(name).items() if pair[0] != pair[1]}
    return Tensor(
        name,
        space.formats(name),
        costs,
        fixed=fixed,
        required=FLOAT_BITS if name in space.graph.outputs else None,
        tie=producer.inputs[0] if producer is not None and producer.kind in TIED_KINDS else None,
        copies_only=_copies_only(space, name),
    )


def _copies_only(space: Space, name: str) -> tuple[int, ...]:
    """Formats only weighted operators read: only theirs is the sensitivity to fewer than 8 bits that was measured.

    Residuals and weightless operators read 8 bits.
    """
    others = [n for n in space.graph.consumers(name) if n.kind not in WEIGHTED_KINDS or name in n.inputs[1:]]
    return tuple(f for f in space.formats(name) if f < BYTE) if others else ()


def _choices(
    space: Space,
    node: Node,
    latency_us: Callable[[Request], float],
    costs: Costs,
    losses: Mapping[tuple[str, str], float],
) -> Iterator[Choice]:
    if node.kind == "float":
        yield Choice(WEIGHTLESS_FLOAT, FLOAT_BITS, {FLOAT_BITS: 0.0}, energy_mj=0.0)
    elif node.kind == "layout":
        times = {pair[1]: latency_us(r) for pair, r in space.conversions(node.output).items() if pair[0] == pair[1]}
        yield Choice("layout", FLOAT_BITS, {emitted_class(bits): t for bits, t in times.items()}, energy_mj=0.0)
    elif node.kind == "reshape":
        yield Choice(WEIGHTLESS_FLOAT, FLOAT_BITS, {FLOAT_BITS: 0.0}, energy_mj=0.0)
        for bits in space.formats(node.output):
            if bits != FLOAT_BITS and bits in space.formats(node.inputs[0]):
                yield Choice(f"a{bits}", bits, {BYTE: 0.0}, energy_mj=0.0)
    else:
        for label, requests in space.options(node).items():
            times = {bits: latency_us(request) for bits, request in requests.items()}
            usable = {bits: t for bits, t in times.items() if math.isfinite(t)}
            loss = losses.get((node.name, label), 0.0)
            if usable and math.isfinite(loss):  # else the network's output holds NaN or infinity
                first = next(iter(requests.values()))
                size = costs.size_bytes(first) if node.weight is not None else 0
                yield Choice(label, _in_bits(node, label), usable, size, loss, costs.energy_mj(first))


def _in_bits(node: Node, label: str) -> int:
    if node.kind in QUANTIZABLE_KINDS:
        precision = Precision.parse(label)
        return FLOAT_BITS if node.quantizable.is_float_at(precision) else precision.activation_bits
    return FLOAT_BITS if label == WEIGHTLESS_FLOAT else BYTE
