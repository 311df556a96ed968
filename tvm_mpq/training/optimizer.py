"""One optimizer for weights, biases and step sizes, each in units that its size comes in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tvm_mpq.training.convolution import Convolution
from tvm_mpq.training.network import QuantizedNetwork
from tvm_mpq.training.values import LearnedRange


class ScaledAdam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) whose updates of a weight are in integer steps of its channel.

    Batch norms that were folded leave channels whose weights differ by orders of magnitude; in steps they are alike.
    A bias moves in units of the noise that its channel's sum has: weight step * input step * sqrt(terms). Step sizes
    are logarithms already.

    parts: operators, each with its input's step size. ranges: of activations, whose step sizes learn too.
    """

    def __init__(
        self,
        parts: Iterable[tuple[Convolution, float]],
        ranges: Iterable[LearnedRange],
        weight_rate: float,
        step_rate: float,
    ) -> None:
        weights: list[nn.Parameter] = []
        self._units: list[tuple[nn.Parameter, Tensor]] = []
        steps: list[nn.Parameter] = [held.log_ratio for held in ranges]
        for convolution, step in parts:
            unit = convolution.initial_step.reshape(-1, 1, 1, 1)
            noise = convolution.initial_step * step * math.sqrt(max(1, convolution.weight[0].numel()))
            self._units += [(convolution.weight, unit), (convolution.bias, noise)]
            weights += [convolution.weight, convolution.bias]
            steps.append(convolution.log_ratio)
        self._rates = (weight_rate, step_rate)
        self._inner = torch.optim.Adam([{"params": weights, "lr": weight_rate}, {"params": steps, "lr": step_rate}])

    def update(self, loss: Tensor, share_of_rate: float) -> None:
        """One step against the gradient of `loss` with this share of the learning rates."""
        for group, rate in zip(self._inner.param_groups, self._rates, strict=True):
            group["lr"] = rate * share_of_rate
        self._inner.zero_grad()
        loss.backward()
        before = [parameter.detach().clone() for parameter, _ in self._units]
        self._inner.step()
        with torch.no_grad():
            for (parameter, unit), old in zip(self._units, before, strict=True):
                parameter.sub_(old).mul_(unit).add_(old)

    def state(self) -> dict[str, Any]:
        """For `restore`: tensors and numbers."""
        return dict(self._inner.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self._inner.load_state_dict(state)


def trained(network: QuantizedNetwork) -> list[tuple[Convolution, float]]:
    """Integer operators, each with its input's step size."""
    return [
        (convolution, float(network.input_range(name).quant().step.detach()))
        for name, convolution in network.convolutions.items()
        if not convolution.precision.is_float
    ]
