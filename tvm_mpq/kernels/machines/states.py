"""Products of the states of recurrent layers: words by pairs, or bytes by fours where there is VNNI."""

from __future__ import annotations

from collections.abc import Callable

from tvm_mpq.kernels.emit import Value
from tvm_mpq.kernels.frames.integer_attention import PairMachine
from tvm_mpq.kernels.frames.recurrent_bytes import StateMachine


class WordStates(StateMachine):
    """Exact whatever the zero point. Weights lie in words, or in bytes that are widened as they are loaded.

    lanes: those of `pairs`, 0 where it takes any.
    """

    terms = 2
    centered = True
    stored = ("int8", "int16")

    def __init__(self, pairs: PairMachine, lanes: int) -> None:
        self.pairs, self.lanes = pairs, lanes

    def add_products(self, acc: Value, states: Value, weights: Value) -> Value:
        words = weights if weights.dtype == "int16" else weights.cast("int16")
        return self.pairs.add_products(acc, states, words)


class ByteStates(StateMachine):
    """vpdpbusd; what the zero point adds is a constant of each row of weights."""

    terms = 4
    centered = False
    stored = ("int8",)

    def __init__(self, lanes: int, dot: Callable[[Value, Value, Value], Value]) -> None:
        self.lanes, self._dot = lanes, dot

    def add_products(self, acc: Value, states: Value, weights: Value) -> Value:
        return self._dot(acc, states, weights)
