"""The float network in PyTorch whose weighted operators read and hold values of as many bits as gates let through."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tvm_mpq.calibrate.sensitivity import float_plan
from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics.affine import quantize_weight
from tvm_mpq.passes.graph import Graph
from tvm_mpq.passes.lowering import KernelStep, StoredValue
from tvm_mpq.schema import Plan, Precision, TensorQuant
from tvm_mpq.training.convolution import Convolution
from tvm_mpq.training.gates import BitGates
from tvm_mpq.training.network import Key, QuantizedNetwork
from tvm_mpq.training.straight_through import round_clamp
from tvm_mpq.training.values import Quant, TensorValue


@dataclass(frozen=True)
class BitOffer:
    """What gates choose among.

    weights: operator -> bits, ascending. activations: tensor (`Graph.quant_root` of what such operators read) -> bits,
    ascending. cost: operator -> float64[its weight bits, its input's bits], not negative, in any one unit.
    """

    weights: Mapping[str, tuple[int, ...]]
    activations: Mapping[str, tuple[int, ...]]
    cost: Mapping[str, npt.NDArray[np.float64]]


class GatedNetwork(QuantizedNetwork):
    """All tensors float32 but weights and inputs of the operators in `offer`: sums of what their bits make of them.

    Weights, biases and ranges stay; the gates' logits are the only parameters that ask for gradients. Those pass
    through rounding as if it were not there (`straight_through.round_clamp`). All readers of a tensor see it alike.

    Parameters
    ----------
    plan
        Has ranges of the tensors in `offer` at all their bits.

    Raises
    ------
    InvalidValueError
        If the plan lacks a range.
    """

    def __init__(self, graph: Graph, plan: Plan, features: frozenset[str], offer: BitOffer) -> None:
        super().__init__(graph, float_plan(graph, plan), features)
        self.requires_grad_(False)
        self._offer = offer
        self._read = {node.name: graph.quant_root(node.inputs[0]) for node in graph.weighted()}
        self._weights, self._ranges_of = dict[str, list[Tensor]](), dict[str, list[TensorQuant]]()
        gates: dict[tuple[str, str], BitGates] = {}
        for node in graph.weighted():
            if node.name in offer.weights:
                assert node.weight is not None
                bits = offer.weights[node.name]
                self._weights[node.name] = [quantized_weight(node.weight, b) for b in bits]
                gates["weight", node.name] = BitGates(bits)
        for tensor, bits in offer.activations.items():
            self._ranges_of[tensor] = [plan.quant(tensor, b) for b in bits]
            gates["activation", tensor] = BitGates(bits)
        self._gates = gates
        self._held_gates = nn.ModuleList(gates.values())
        self._shares: dict[tuple[str, str], Tensor] = {}
        self._most = sum(float(cost[-1, -1]) for cost in offer.cost.values())
        if self._most <= 0:
            raise InvalidValueError("the bits to choose among must cost something at their most (got 0 for all)")

    @property
    def gates(self) -> Collection[BitGates]:
        """Of all weights and tensors that have any."""
        return self._gates.values()

    def gates_state(self) -> dict[str, Tensor]:
        """The gates' logits, which are all that is learned."""
        return {name: logits.detach().clone() for name, logits in self._held_gates.named_parameters()}

    def load_gates(self, state: Mapping[str, Tensor]) -> None:
        """What `gates_state` gave."""
        self._held_gates.load_state_dict(state)

    def draw(self, generator: torch.Generator) -> None:
        """Gates for the runs that follow, until the next call."""
        self._shares = {key: gates.drawn(generator) for key, gates in self._gates.items()}

    def settle(self) -> None:
        """Gates of 0 and 1 for the runs that follow: the bits that are chosen now."""
        self._shares = {
            key: torch.tensor([float(bits == gates.chosen()) for bits in gates.bits])
            for key, gates in self._gates.items()
        }

    def cost(self) -> Tensor:
        """float32[]: what the operators are expected to cost, as a share of their most bits' cost.

        Gates are independent, so that the expected cost of a pair of bits is that of the products of probabilities.
        """
        probabilities = {key: gates.probabilities() for key, gates in self._gates.items()}
        parts = [
            probabilities["weight", name]
            @ torch.from_numpy(cost).float()
            @ probabilities["activation", self._read[name]]
            for name, cost in self._offer.cost.items()
        ]
        return torch.stack(parts).sum() / self._most

    def precisions(self) -> dict[str, Precision]:
        """The bits that are chosen now, of every operator that has gates."""
        bits = {key: gates.chosen() for key, gates in self._gates.items()}
        return {
            name: Precision(bits["weight", name], bits["activation", self._read[name]]) for name in self._offer.weights
        }

    def run_step(self, i: int, held: dict[StoredValue, TensorValue], quants: Mapping[Key, Quant]) -> None:
        step = self.steps[i]
        run = self._runs.get(i)
        if not (isinstance(step, KernelStep) and isinstance(run, Convolution) and step.node in self._offer.weights):
            super().run_step(i, held, quants)
            return
        data, *residual = (held[value].real for value in step.inputs)
        weight = _mixed(self._shares["weight", step.node], self._weights[step.node])
        result = run.in_floats(self._quantized(data, self._read[step.node]), weight, residual)
        held[step.output] = TensorValue(result.reshape(-1, *self.graph.tensors[step.output.tensor].shape[1:]))

    def _quantized(self, x: Tensor, tensor: str) -> Tensor:
        share = self._shares["activation", tensor]
        # What has no share passes nothing on to a gate either: one that made it so is clamped.
        kept = [i for i, s in enumerate(share.tolist()) if s > 0]
        return _mixed(share[kept], [quantized_activation(x, self._ranges_of[tensor][i]) for i in kept])


def quantized_weight(weight: npt.NDArray[np.float32], bits: int) -> Tensor:
    """float32[O, ...] of a weight float32[O, ...] rounded to nearest at these bits."""
    codes, scales = quantize_weight(weight, bits)
    return torch.from_numpy(codes * scales.reshape(-1, *[1] * (weight.ndim - 1)))


def quantized_activation(x: Tensor, to: TensorQuant) -> Tensor:
    """float32[...] of the steps that a tensor is stored in; gradients pass within its range."""
    quant = Quant(to.bits, to.zero_point, torch.tensor(to.scale))
    return round_clamp(x / quant.step, quant.low, quant.high) * quant.step


def _mixed(share: Tensor, values: list[Tensor]) -> Tensor:
    """The sum of the values by their shares."""
    total = share[0] * values[0]
    for i, value in enumerate(values[1:], 1):
        total = total + share[i] * value
    return total
