"""From a graph and a plan to an ordered list of kernel calls: the one place that decides what runs, in which format.

Realize emits these steps as Relax, the interpreter of `calibrate` runs them one by one, and the pipeline adds up their
latencies. All three therefore speak of the same kernels and the same boundaries.

In one file: each kind of step needs the formats and boundaries that the others were given.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tvm_mpq.errors import InvalidValueError, NoKernelError
from tvm_mpq.kernels.registry import Kernel, Request, default_kernel, fitting, named_kernel
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.graph import FLOAT_KINDS, QUANTIZABLE_KINDS, TIED_KINDS, Graph, Node
from tvm_mpq.schema import (
    FLOAT_BITS,
    FP32,
    W8A8,
    Conv2dWorkload,
    ConvertWorkload,
    Plan,
    Precision,
    TensorQuant,
    Workload,
    padded_channels,
)

BYTE = 8
"""Requests name every integer format 8: bits below only change constants, not code."""


@dataclass(frozen=True)
class StoredValue:
    """One stored form of a tensor: bits 32 = float32, else uint8 with padded channels."""

    tensor: str
    bits: int


@dataclass(frozen=True)
class KernelStep:
    """Run a kernel. node: the operator's name, or `tensor:from->to` for a boundary."""

    node: str
    kernel: Kernel
    operands: Operands
    inputs: tuple[StoredValue, ...]
    output: StoredValue


@dataclass(frozen=True)
class FloatStep:
    """Evaluate a Relax binding on float values as it stands."""

    node: Node


@dataclass(frozen=True)
class ReshapeStep:
    """The same bytes under another shape."""

    node: str
    input: StoredValue
    output: StoredValue


Step = KernelStep | FloatStep | ReshapeStep


def read_by(step: Step) -> tuple[StoredValue, ...]:
    """What a step reads, each as often as it reads it."""
    if isinstance(step, KernelStep):
        return step.inputs
    if isinstance(step, ReshapeStep):
        return (step.input,)
    return tuple(StoredValue(name, FLOAT_BITS) for name in step.node.inputs)


def made_by(step: Step) -> StoredValue:
    """What a step leaves."""
    return StoredValue(step.node.output, FLOAT_BITS) if isinstance(step, FloatStep) else step.output


def stored_shape(graph: Graph, value: StoredValue) -> tuple[int, ...]:
    """The physical shape: channels padded when integer."""
    shape = graph.tensors[value.tensor].shape
    return shape if value.bits == FLOAT_BITS else (*shape[:-1], padded_channels(shape[-1]))


def value_bytes(graph: Graph, value: StoredValue) -> int:
    """What the tensor takes as it is stored."""
    return math.prod(stored_shape(graph, value)) * (4 if value.bits == FLOAT_BITS else 1)


def request_for(
    workload: Workload, precision: Precision, out_bits: int, features: frozenset[str], threads: int
) -> Request:
    """A request with every integer format named 8 (see BYTE)."""
    out = FLOAT_BITS if out_bits == FLOAT_BITS else BYTE
    if isinstance(workload, ConvertWorkload):
        small = {b: b if b == FLOAT_BITS else BYTE for b in (workload.from_bits, workload.to_bits)}
        workload = ConvertWorkload(
            workload.shape, small[workload.from_bits], small[workload.to_bits], workload.channels_first
        )
    return Request(workload, precision, out, features, threads)


def conversion_request(
    shape: tuple[int, ...], from_bits: int, to_bits: int, channels_first: bool, features: frozenset[str], threads: int
) -> Request:
    """The boundary kernel between two formats of one tensor."""
    floats = from_bits == to_bits == FLOAT_BITS
    workload = ConvertWorkload(shape, from_bits, to_bits, channels_first)
    return request_for(workload, FP32 if floats else W8A8, to_bits, features, threads)


def default_formats(graph: Graph, precisions: Mapping[str, Precision]) -> dict[str, int]:
    """The format each tensor is emitted in when no solver has chosen: integers as far as they reach.

    A weighted integer operator's output is integer when somebody can read it so, a weightless operator is integer when
    all its inputs are, and a tensor that only float readers want is emitted as float32 at once.
    """
    formats = dict.fromkeys(graph.inputs, FLOAT_BITS)
    wanted = _wanted_bits(graph, precisions)
    for node in graph.nodes:
        out = node.output
        if node.kind in FLOAT_KINDS:
            formats[out] = FLOAT_BITS
        elif node.kind == "layout":
            formats[out] = wanted[out] or FLOAT_BITS
        elif node.kind in QUANTIZABLE_KINDS:
            bits = wanted[out] if not precisions[node.name].is_float else 0
            formats[out] = bits or FLOAT_BITS
        elif node.kind in TIED_KINDS:
            formats[out] = formats[node.inputs[0]]
        else:
            integer = all(formats[t] != FLOAT_BITS for t in node.inputs)
            formats[out] = (wanted[out] or BYTE) if integer else FLOAT_BITS
    return formats


def _wanted_bits(graph: Graph, precisions: Mapping[str, Precision]) -> dict[str, int]:
    """Tensor -> bits of the widest integer reader behind it, through weightless operators; 0 = no integer reader."""
    wanted = dict.fromkeys(graph.tensors, 0)
    for node in reversed(graph.nodes):
        if node.kind in FLOAT_KINDS or node.kind == "layout":
            bits = 0
        elif node.kind in QUANTIZABLE_KINDS:
            bits = 0 if precisions[node.name].is_float else precisions[node.name].activation_bits
        else:
            bits = wanted[node.output]
        for tensor in node.inputs:
            wanted[tensor] = max(wanted[tensor], bits)
    return wanted


def lower(graph: Graph, plan: Plan, features: frozenset[str], codes: WeightCodes | None = None) -> list[Step]:
    """Steps that compute the graph's outputs as float32 under the plan, by kernels for its threads.

    Parameters
    ----------
    codes
        Weights quantized elsewhere; those that it lacks are rounded to nearest.

    Raises
    ------
    NoKernelError
        If no kernel family serves an operator at its precision.
    InvalidValueError
        If the plan lacks an operator or the range of a tensor, or `codes` are of another network.
    """
    return _Lowering(graph, plan, features, codes or WeightCodes()).run()


MOST_THREADS = 64
"""Up to which a plan may have been tuned for another number of threads than it is built for."""


def kernel_chooser(plan: Plan) -> Callable[[Request], Kernel]:
    """The plan's kernel for a request, or the shipped default.

    Knobs that the row does not offer raise NoKernelError: a tile that does not fit would write past its buffers.
    """

    def choose(request: Request) -> Kernel:
        row = plan.kernels.get(request.key)
        if not row:
            return default_kernel(request)
        kernel = named_kernel(request, row["family"], row["knobs"])
        if not _is_offered(request, row["family"], kernel.knobs_text):
            names = sorted(kernel.family.knob_space(request)[0])
            raise NoKernelError(
                f"kernel family {row['family']!r} has the knobs {names} and offers {request.key} not those of the "
                f"plan, {kernel.knobs_text}; tune and optimize again, or remove its entry under kernels in the plan"
            )
        return kernel

    return choose


@functools.lru_cache(maxsize=4096)
def _is_offered(request: Request, family: str, knobs_text: str) -> bool:
    """Whether a row offers knobs for the request, at any number of threads: spaces are cut to what is fast at one."""
    kernel = named_kernel(request, family, json.loads(knobs_text))
    others = (replace(kernel, request=replace(request, threads=n)) for n in range(1, MOST_THREADS + 1))
    return kernel.is_offered or any(other.is_offered for other in others)


def _check_names(graph: Graph, plan: Plan, codes: WeightCodes) -> None:
    """Raises InvalidValueError when the plan or the codes were made for another network."""
    names = {n.name for n in graph.quantizable()}
    for what, wrong in (
        ("lacks operator", {n.name for n in graph.weighted()} - set(plan.operators)),
        ("names an operator that the network lacks:", set(plan.operators) - names),
        ("names a tensor that the network lacks:", set(plan.formats) - set(graph.tensors)),
    ):
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise InvalidValueError(f"the plan {what} {min(wrong)!r}{more}; make a plan for this network")
    unknown = {name for name, _ in codes} - names
    if unknown:
        raise InvalidValueError(f"there are weight codes for {min(unknown)!r}, which the network lacks")


class _Lowering:
    def __init__(self, graph: Graph, plan: Plan, features: frozenset[str], codes: WeightCodes) -> None:
        self._graph = graph
        self._plan = plan
        self._features = features
        self._codes = codes
        self._threads = plan.threads
        self._choose = kernel_chooser(plan)
        _check_names(graph, plan, codes)
        # a plan made before attention and recurrent layers were choices says nothing of them
        chosen = {n.name: plan.precision(n.name) if n.name in plan.operators else FP32 for n in graph.quantizable()}
        self._precisions = chosen
        self._formats = {**default_formats(graph, self._precisions), **plan.formats}
        self._steps: list[Step] = []
        self._have: dict[str, list[int]] = {t: [FLOAT_BITS] for t in graph.inputs}

    def run(self) -> list[Step]:
        for node in self._graph.nodes:
            if node.kind in QUANTIZABLE_KINDS:
                self._quantizable(node)
            elif node.kind == "float":
                self._float(node)
            elif node.kind == "layout":
                self._have[node.output] = []  # made on demand, straight from the network's input
            elif node.kind == "reshape":
                self._reshape(node)
            else:
                self._weightless(node)
        for tensor in self._graph.outputs:
            self._want(tensor, FLOAT_BITS)
        return self._steps

    def _quant(self, tensor: str, bits: int) -> TensorQuant | None:
        return None if bits == FLOAT_BITS else self._plan.quant(self._graph.quant_root(tensor), bits)

    def _request(self, workload: Workload, precision: Precision, out_bits: int) -> Request:
        return request_for(workload, precision, out_bits, self._features, self._threads)

    def _emit(
        self, name: str, request: Request, operands: Operands, inputs: tuple[StoredValue, ...], output: StoredValue
    ) -> None:
        self._steps.append(KernelStep(name, self._choose(request), operands, inputs, output))
        self._have.setdefault(output.tensor, []).append(output.bits)

    def _want(self, tensor: str, bits: int) -> StoredValue:
        """Make sure the tensor exists in this format; convert from the form it was emitted in otherwise."""
        have = self._have[tensor]
        if bits in have:
            return StoredValue(tensor, bits)
        producer = self._graph.producer(tensor)
        layout = producer is not None and producer.kind == "layout"
        source = producer.inputs[0] if layout and producer is not None else tensor
        origin = FLOAT_BITS if layout else have[0]
        shape = self._graph.tensors[tensor].shape
        request = conversion_request(shape, origin, bits, layout, self._features, self._threads)
        operands = Operands((None if layout else self._quant(tensor, origin),), self._quant(tensor, bits))
        self._emit(
            f"{tensor}:{origin}->{bits}", request, operands, (StoredValue(source, origin),), StoredValue(tensor, bits)
        )
        return StoredValue(tensor, bits)

    def _any_integer(self, tensor: str) -> StoredValue:
        """An integer form of the tensor, whatever its bits."""
        held = [b for b in self._have[tensor] if b != FLOAT_BITS]
        wished = self._formats.get(tensor, FLOAT_BITS)
        return self._want(tensor, held[0] if held else (wished if wished != FLOAT_BITS else BYTE))

    def _pre_activation(self, node: Node, activation: str) -> TensorQuant | None:
        if is_clamp(activation):
            return None
        return self._plan.quant(f"{node.name}:pre", BYTE)

    def _quantizable(self, node: Node) -> None:
        precision = self._precisions[node.name]
        workload = node.quantizable
        if workload.is_float_at(precision):
            inputs = tuple(self._want(t, FLOAT_BITS) for t in node.inputs)
            state = None if precision.is_float else self._plan.quant(node.state, BYTE)
            operands = Operands((None,) * len(inputs), None, node.weight, node.bias, state=state)
            request = self._request(workload, precision, FLOAT_BITS)
            self._emit(node.name, request, operands, inputs, StoredValue(node.output, FLOAT_BITS))
            return
        exact = node.exact_inputs
        inputs = tuple(
            self._want(t, precision.activation_bits) if i < exact else self._any_integer(t)
            for i, t in enumerate(node.inputs)
        )
        out_bits = self._formats[node.output]
        request = self._request(workload, precision, out_bits)
        if out_bits == FLOAT_BITS and not fitting(request):  # no fused dequantization here: emit bytes, convert later
            out_bits = BYTE
            request = self._request(workload, precision, out_bits)
        activation = workload.activation if isinstance(workload, Conv2dWorkload) else "none"
        pre = self._pre_activation(node, activation) if out_bits != FLOAT_BITS else None
        quants = tuple(self._quant(v.tensor, v.bits) for v in inputs)
        operands = Operands(quants, self._quant(node.output, out_bits), node.weight, node.bias, pre)
        operands = replace(operands, codes=self._codes.get((node.name, precision.weight_bits)))
        self._emit(node.name, request, operands, inputs, StoredValue(node.output, out_bits))

    def _weightless(self, node: Node) -> None:
        assert node.workload is not None
        bits = self._formats[node.output]
        if bits == FLOAT_BITS:
            inputs = tuple(self._want(t, FLOAT_BITS) for t in node.inputs)
            precision = FP32
        elif node.kind in TIED_KINDS:
            inputs = (self._want(node.inputs[0], bits),)
            precision = W8A8
        else:
            inputs = tuple(self._any_integer(t) for t in node.inputs)
            precision = W8A8
        activation = getattr(node.workload, "activation", "none")
        standalone = node.kind == "activation"  # its table maps the input's range itself
        pre = None if bits == FLOAT_BITS or standalone else self._pre_activation(node, activation)
        quants = tuple(self._quant(v.tensor, v.bits) for v in inputs)
        operands = Operands(quants, self._quant(node.output, bits), node.weight, node.bias, pre)
        request = self._request(node.workload, precision, bits)
        self._emit(node.name, request, operands, inputs, StoredValue(node.output, bits))

    def _reshape(self, node: Node) -> None:
        value = self._want(node.inputs[0], self._formats[node.output])
        output = StoredValue(node.output, value.bits)
        self._steps.append(ReshapeStep(node.name, value, output))
        self._have.setdefault(node.output, []).append(value.bits)

    def _float(self, node: Node) -> None:
        for tensor in node.inputs:
            if self._graph.tensors[tensor].dtype == "float32":
                self._want(tensor, FLOAT_BITS)
        self._steps.append(FloatStep(node))
        self._have[node.output] = [FLOAT_BITS]
