"""A float activation on its way into an output buffer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvm_mpq.kernels.carriers.common import Carrier, vec
from tvm_mpq.kernels.float_conv.activations import ActivationCode
from tvm_mpq.kernels.float_conv.emit import Emitter


class _Lines(Emitter):
    """The face that `ActivationCode` writes to, passing every line on to a carrier."""

    def __init__(self, code: Carrier) -> None:
        super().__init__("main", [])
        self._code = code

    def line(self, text: str) -> None:
        self._code.line(text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        with self._code.block(head):
            yield


class FloatActivation:
    """Applies one activation to vectors of fixed `lanes`."""

    def __init__(self, code: Carrier, activation: str, lanes: int) -> None:
        self._code, self._lanes = code, lanes
        self._emitter = _Lines(code)
        self._activation = ActivationCode(self._emitter, activation, lanes)

    def store(self, buffer: str, start: str, value: str) -> None:
        """buffer[start : start + lanes] = activation(value), inside whatever loop is open."""
        self._emitter.vector_buffer("act", self._lanes)
        self._activation.declare()
        self._code.line(f"{vec('act', '0', self._lanes)} = {value}")
        self._activation.apply("act")
        self._code.line(f"{vec(buffer, start, self._lanes)} = {vec('act', '0', self._lanes)}")
