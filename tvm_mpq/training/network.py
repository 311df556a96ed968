"""A lowered network as a PyTorch module: the kernels' integers, with gradients to weights, biases and step sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from tvm_mpq.numerics.weight_codes import WeightCodes
from tvm_mpq.passes.graph import Graph
from tvm_mpq.passes.lowering import (
    FloatStep,
    KernelStep,
    ReshapeStep,
    Step,
    StoredValue,
    lower,
    made_by,
    read_by,
)
from tvm_mpq.schema import FLOAT_BITS, Conv2dWorkload, Plan, TensorQuant
from tvm_mpq.training.convolution import Convolution
from tvm_mpq.training.float_operators import FloatOperator
from tvm_mpq.training.values import LearnedRange, Quant, TensorValue
from tvm_mpq.training.weightless import Rule, rule

Key = tuple[str, int]
"""A tensor that has a TensorQuant of its own, or `operator:pre`, and the bits of one of its formats."""


class QuantizedNetwork(nn.Module):
    """Runs the steps of `passes.lowering.lower`, for any batch in axis 0.

    In evaluation mode, and in training mode with `exact`, outputs of integer operators equal those of the kernels bit
    for bit: their integers are computed as whole numbers of float32, or of float64 where sums may pass 2^24. In
    training mode float32 always does, so that a sum beyond 2^24 is off by a rounding; a residual is rounded once more.
    Float operators differ from the kernels by the order of their sums.

    Parameters
    ----------
    graph, plan, features, codes
        As `lower` takes them. Weights that `codes` hold start at values that round to them.

    Attributes
    ----------
    convolutions : weighted operators by name, where `weight`, `bias` and steps are
    exact : whether training mode is as exact as evaluation mode

    Raises
    ------
    NoKernelError, InvalidValueError
        As `lower` does.
    UnsupportedModelError
        If an operator has no form in PyTorch here, or works along the batch axis.
    """

    def __init__(
        self, graph: Graph, plan: Plan, features: frozenset[str], codes: WeightCodes | None = None, exact: bool = False
    ) -> None:
        super().__init__()
        self.graph, self.plan, self.exact = graph, plan, exact
        self.steps: tuple[Step, ...] = tuple(lower(graph, plan, features, codes))
        self._ranges = nn.ModuleDict()
        self._weighted = nn.ModuleDict()
        self._runs: dict[int, Convolution | Rule | FloatOperator] = {}
        kinds = {node.name: node.kind for node in graph.nodes}
        for i, step in enumerate(self.steps):
            if isinstance(step, FloatStep):
                self._runs[i] = FloatOperator(graph, step.node)
            elif isinstance(step, KernelStep):
                self._add_ranges(step)
                self._runs[i] = self._runner(step, linear=kinds.get(step.node) == "linear")
        self._last_use = _last_uses(self.steps, graph)

    def _add_ranges(self, step: KernelStep) -> None:
        operands = step.operands
        values = (*step.inputs, step.output)
        for value, quant in zip(values, (*operands.inputs, operands.output), strict=True):
            self._add_range(self.key(value), quant, self.graph.tensors[value.tensor].shape)
        if operands.pre_activation is not None:
            shape = self.graph.tensors[step.output.tensor].shape
            self._add_range(_before(step), operands.pre_activation, shape)

    def _add_range(self, key: Key, quant: TensorQuant | None, shape: tuple[int, ...]) -> None:
        name = _module_name(*key)
        if quant is not None and name not in self._ranges:
            self._ranges[name] = LearnedRange(quant, math.prod(shape[1:]))

    def _runner(self, step: KernelStep, *, linear: bool) -> Convolution | Rule:
        request = step.kernel.request
        if not isinstance(request.workload, Conv2dWorkload):
            return rule(request.workload, step.node)
        made = Convolution(request.workload, request.precision, step.operands, linear=linear)
        self._weighted[_module_name(step.node)] = made
        return made

    @property
    def convolutions(self) -> dict[str, Convolution]:
        """Weighted operators by name, float ones too."""
        found = {}
        for i, step in enumerate(self.steps):
            made = self._runs.get(i)
            if isinstance(step, KernelStep) and isinstance(made, Convolution):
                found[step.node] = made
        return found

    @property
    def ranges(self) -> dict[Key, LearnedRange]:
        """The step sizes of activations by tensor and bits."""
        return dict(self._keyed_ranges())

    def _keyed_ranges(self) -> Iterator[tuple[Key, LearnedRange]]:
        for step in self.steps:
            if isinstance(step, KernelStep):
                keys = [self.key(value) for value in (*step.inputs, step.output)]
                for key in (*keys, _before(step)):
                    name = _module_name(*key)
                    if name in self._ranges:
                        held = self._ranges[name]
                        assert isinstance(held, LearnedRange)
                        yield key, held

    def key(self, value: StoredValue) -> Key:
        """Under which `quants` has the quantization of a stored tensor."""
        return self.graph.quant_root(value.tensor), value.bits

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs, float32[N, ...].

        inputs: in the order of `graph.inputs`, each with N samples in axis 0.
        """
        held = self._run(inputs, forget=True)
        return tuple(held[StoredValue(name, FLOAT_BITS)].data for name in self.graph.outputs)

    def values(self, *inputs: Tensor) -> dict[StoredValue, TensorValue]:
        """Every tensor of a run in each format that it is stored in."""
        return self._run(inputs, forget=False)

    def _run(self, inputs: tuple[Tensor, ...], *, forget: bool) -> dict[StoredValue, TensorValue]:
        held = self.start(inputs)
        quants = self.quants()
        for i in range(len(self.steps)):
            self.run_step(i, held, quants)
            for value in self._last_use[i] if forget else ():
                del held[value]
        return held

    def start(self, inputs: Sequence[Tensor]) -> dict[StoredValue, TensorValue]:
        """What is there before the first step."""
        return {
            StoredValue(name, FLOAT_BITS): TensorValue(x) for name, x in zip(self.graph.inputs, inputs, strict=True)
        }

    def quants(self) -> dict[Key, Quant]:
        """Every tensor's quantization with today's step sizes, which gradients reach."""
        return {key: held.quant() for key, held in self._keyed_ranges()}

    def run_step(self, i: int, held: dict[StoredValue, TensorValue], quants: Mapping[Key, Quant]) -> None:
        """Add what step i makes to `held`, which has what it reads."""
        step, run = self.steps[i], self._runs.get(i)
        if isinstance(step, ReshapeStep):
            held[step.output] = held[step.input].reshaped(-1, *self.graph.tensors[step.output.tensor].shape[1:])
        elif isinstance(step, FloatStep):
            assert isinstance(run, FloatOperator)
            floats = {v.tensor: x.data for v, x in held.items() if v.bits == FLOAT_BITS}
            held[StoredValue(step.node.output, FLOAT_BITS)] = TensorValue(run(floats))
        else:
            assert run is not None and not isinstance(run, FloatOperator)
            output, exact = quants.get(self.key(step.output)), self.exact or not self.training
            result = run([held[v] for v in step.inputs], output, quants.get(_before(step)), exact)
            held[step.output] = result.reshaped(-1, *self.graph.tensors[step.output.tensor].shape[1:])

    def input_range(self, operator: str) -> LearnedRange:
        """Of what an integer operator reads."""
        step = next(s for s in self.steps if isinstance(s, KernelStep) and s.node == operator)
        return self.ranges[self.key(step.inputs[0])]

    @torch.no_grad()
    def learned_codes(self) -> WeightCodes:
        """Integers, scales and biases of all integer operators as they are now."""
        return WeightCodes(
            {
                name: convolution.quantized_weight(self.input_range(name).quant())
                for name, convolution in self.convolutions.items()
                if not convolution.precision.is_float
            }
        )

    @torch.no_grad()
    def learned_plan(self) -> Plan:
        """The plan with the step sizes as they are now."""
        learned = {key: held.quant().tensor_quant for key, held in self._keyed_ranges()}
        tensors = {
            name: [learned.get((name, quant.bits), quant) for quant in quants]
            for name, quants in self.plan.tensors.items()
        }
        return dataclasses.replace(self.plan, tensors=tensors)


def _before(step: KernelStep) -> Key:
    """The range before an activation that is no clamp."""
    return f"{step.node}:pre", 8


def _module_name(name: str, bits: int | None = None) -> str:
    """A name that PyTorch allows; distinct for distinct names."""
    text = name.replace("%", "%25").replace(".", "%2e")
    return f"{text}@" if bits is None else f"{text}@{bits}"


def _last_uses(steps: tuple[Step, ...], graph: Graph) -> Mapping[int, list[StoredValue]]:
    """Step -> the values that nothing reads after it."""
    last: dict[StoredValue, int] = {}
    for i, step in enumerate(steps):
        last.update(dict.fromkeys((*read_by(step), made_by(step)), i))
    kept = {StoredValue(name, FLOAT_BITS) for name in graph.outputs}
    ends: dict[int, list[StoredValue]] = {i: [] for i in range(len(steps))}
    for value, i in last.items():
        if value not in kept:
            ends[i].append(value)
    return ends
