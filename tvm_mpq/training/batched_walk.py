"""A lowered network in PyTorch run over many samples at once, block by block: only what is still read is kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from tvm_mpq.passes.lowering import StoredValue, made_by
from tvm_mpq.training.blocks import read_after
from tvm_mpq.training.network import QuantizedNetwork
from tvm_mpq.training.values import Quant, TensorValue

CHUNK = 16
"""Samples that steps run on at once."""


class BatchedWalk:
    """network: in evaluation mode while it runs here. inputs: float32[N, ...], in the order of its graph's.

    Integers are held as the bytes that kernels store: a quarter of what PyTorch computes with.

    Attributes
    ----------
    done : the steps before this one are done for good
    count : samples
    """

    def __init__(self, network: QuantizedNetwork, inputs: Sequence[Tensor]) -> None:
        self.network = network
        self._held = {value: x.data for value, x in network.start(inputs).items()}
        self._quants: dict[StoredValue, Quant] = {}
        self._later = read_after(network.steps, network.graph.inputs)
        self.done = 0
        self.count = len(inputs[0])

    def __contains__(self, value: StoredValue) -> bool:
        return value in self._held

    def value(self, value: StoredValue, rows: Tensor | slice = slice(None)) -> TensorValue:
        """A tensor of some samples."""
        data, quant = self._held[value][rows], self._quants.get(value)
        return TensorValue(data if quant is None else data.float() - quant.zero_point, quant)

    def run(
        self, steps: range, rows: Tensor | slice, kept: Collection[StoredValue] = ()
    ) -> dict[StoredValue, TensorValue]:
        """What is still read behind these steps, which follow those that are done, of some samples; and `kept`."""
        with torch.no_grad():
            quants = self.network.eval().quants()
            held = {value: self.value(value, rows) for value in self._held}
            for i in steps:
                self.network.run_step(i, held, quants)
                made = made_by(self.network.steps[i])
                for value in [v for v in held if v not in self._later[i + 1] and v != made and v not in kept]:
                    if value.tensor not in self.network.graph.outputs:
                        del held[value]
            return held

    def advance(self, stop: int, kept: Collection[StoredValue] = ()) -> None:
        """Run up to the step `stop` on all samples; of what nobody reads later, `kept` stays until the next time."""
        steps, wanted = range(self.done, stop), self._later[stop] | set(kept)
        old = {value: data for value, data in self._held.items() if value in wanted}
        parts: dict[StoredValue, list[Tensor]] = {}
        for start in range(0, self.count, CHUNK):
            found = self.run(steps, slice(start, start + CHUNK), wanted)
            for value in wanted - set(old):
                x = found[value]
                if x.quant is not None:
                    self._quants[value] = x.quant
                parts.setdefault(value, []).append(_stored(x))
        self._held = old | {value: torch.cat(data) for value, data in parts.items()}
        self.done = stop

    def stop_for(self, values: Collection[StoredValue]) -> int:
        """The step before which all of these are made."""
        return max([self.done, *(i + 1 for i, step in enumerate(self.network.steps) if made_by(step) in values)])

    def stored(self, value: StoredValue, rows: Tensor) -> npt.NDArray[Any]:
        """float32[n, ...], or uint8 as kernels store it: a tensor that is held or follows, of some samples."""
        found: npt.NDArray[Any] = _stored(
            self.run(range(self.done, self.stop_for([value])), rows, [value])[value]
        ).numpy()
        return found


def _stored(x: TensorValue) -> Tensor:
    return x.data if x.quant is None else (x.data + x.quant.zero_point).to(torch.uint8)
