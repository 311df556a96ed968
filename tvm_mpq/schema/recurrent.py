"""Recurrent layers: what the loop over the time steps computes, once all steps' inputs are multiplied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from tvm_mpq.schema.workloads import Workload

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
"""Gates of each cell, in ONNX's order: input, output, forget, cell; update, reset, hidden; hidden."""

INITIAL = ("zero", "constant", "given")
"""Where the state before the first step comes from: nothing, the constants, an activation."""

WORKLOAD_ATTRIBUTE = "mpq.workload"
"""Attribute under which a function of TensorIR or Relax says, as JSON, which workload it computes."""


@dataclass(frozen=True)
class RecurrentWorkload(Workload):
    """The loop over the steps of an LSTM, a GRU or a plain RNN, as ONNX defines them.

    Operands, float32: gates [steps, batch, directions * G * hidden], which is x W^T and all biases but those named
    below; state [states, directions, batch, hidden] where `initial` is given; the weight R [directions, G * hidden,
    hidden]; vectors, one axis, as `parts` lays them out. G is GATES[cell]; states: h, and of an LSTM c.

    Result, float32: [steps, directions, batch, hidden], h of every step; with `emits_states` and the last states behind
    it, [steps + states, directions, batch, hidden]. A step at or past a sequence's length gives zeros.

    directions: `forward`, `reverse` or both. activations: names as Conv2dWorkload's, for an LSTM of the gates, of the
    new cell and of what is given out, for a GRU of the gates and of the new h. lengths: of each sequence of the batch,
    empty where all have `steps`. peepholes, coupled: of an LSTM, c takes part in the gates, and forgets what the input
    gate takes in. reset_after: of a GRU, the reset gate meets the product with R (ONNX: linear_before_reset). clip:
    bound of what enters the gates' activations, 0 for none. cell_clip: of an LSTM, bound of c itself, before anything
    reads it, 0 for none (TFLite's).

    With weights and activations of 8 bits, only products with R are of integers: those of R, and of h for them.
    """

    kind: ClassVar[str] = "recurrent"
    float_tensors: ClassVar[bool] = True
    rare: ClassVar[frozenset[str]] = frozenset(
        {"initial", "emits_states", "lengths", "peepholes", "coupled", "reset_after", "clip", "cell_clip"}
    )
    cell: str
    steps: int
    batch: int
    hidden: int
    directions: tuple[str, ...]
    activations: tuple[str, ...]
    initial: str = "zero"
    emits_states: bool = False
    lengths: tuple[int, ...] = ()
    peepholes: bool = False
    coupled: bool = False
    reset_after: bool = False
    clip: float = 0.0
    cell_clip: float = 0.0

    @property
    def gates(self) -> int:
        return GATES[self.cell]

    @property
    def states(self) -> int:
        """h, and of an LSTM c."""
        return 2 if self.cell == "lstm" else 1

    @property
    def gates_shape(self) -> tuple[int, ...]:
        return (self.steps, self.batch, len(self.directions) * self.gates * self.hidden)

    @property
    def state_shape(self) -> tuple[int, ...]:
        return (self.states, len(self.directions), self.batch, self.hidden)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (len(self.directions), self.gates * self.hidden, self.hidden)

    @property
    def out_shape(self) -> tuple[int, ...]:
        rows = self.steps + (self.states if self.emits_states else 0)
        return (rows, len(self.directions), self.batch, self.hidden)

    @property
    def parts(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """What the constant `vectors` holds: name -> (offset, shape); at least one element, which may mean nothing.

        peepholes: [directions, input output forget, hidden]; reset_bias: of the hidden gate's product with R;
        state: where `initial` is constant.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        if self.peepholes:
            shapes["peepholes"] = (len(self.directions), 3, self.hidden)
        if self.reset_after:
            shapes["reset_bias"] = (len(self.directions), self.hidden)
        if self.initial == "constant":
            shapes["state"] = self.state_shape
        found, offset = {}, 0
        for name, shape in shapes.items():
            found[name] = (offset, shape)
            offset += math.prod(shape)
        return found

    @property
    def vectors_size(self) -> int:
        return max(1, sum(math.prod(shape) for _, shape in self.parts.values()))

    @property
    def terms(self) -> int:
        return self.hidden

    @property
    def macs(self) -> int:
        sequence = sum(self.lengths) if self.lengths else self.steps * self.batch
        return len(self.directions) * sequence * self.gates * self.hidden * self.hidden
