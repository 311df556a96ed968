"""The row of recurrent layers in float32: the loop over the steps of an LSTM, a GRU or a plain RNN."""

from __future__ import annotations

import numpy as np

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.kernels.emit import tiles
from tvm_mpq.kernels.emit.activations import is_known
from tvm_mpq.kernels.features import GENERIC, vector_registers
from tvm_mpq.kernels.frames.recurrent import RecurrentFrame, recurrent_of
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import FLOAT_BITS, DType, RecurrentWorkload

_ACCUMULATORS = {32: 20, 16: 12}
"""Of a register tile, by the vector registers there are: the others hold h and vectors of weights."""
_ROWS = 4


def _accepts(request: Request) -> bool:
    return request.out_bits == FLOAT_BITS and all(map(is_known, recurrent_of(request).activations))


def _knob_space(request: Request) -> list[Knobs]:
    """As many sequences as share a weight, then as many vectors as the registers hold, and half of each."""
    w = recurrent_of(request)
    most = _ACCUMULATORS[vector_registers(request.features)]
    whole = RecurrentFrame(request, {"rows": 1, "units": 1})
    widest = max(len(gates) for gates in whole.rounds)
    rows = 1 if w.lengths else max(1, min(w.batch, _ROWS, most // widest))
    found: list[Knobs] = []
    for r in dict.fromkeys((rows, max(1, rows // 2))):
        fits = max(1, min(whole.blocks, most // (widest * r)))
        for units in dict.fromkeys((tiles(whole.blocks, tiles(whole.blocks, fits)), max(1, fits // 2))):
            found.append({"rows": r, "units": units})
    return found


def _constants(request: Request, knobs: Knobs, operands: Operands) -> list[np.ndarray]:
    """The packed weight, the small vectors, and the lengths where sequences have their own."""
    w = recurrent_of(request)
    if operands.weight is None or operands.bias is None:
        raise InvalidValueError("a recurrent layer needs a weight and its vectors (got none)")
    found = [RecurrentFrame(request, knobs).pack(operands.weight), np.ascontiguousarray(operands.bias, np.float32)]
    return [*found, np.array(w.lengths, np.int32)] if w.lengths else found


RECURRENT = register(
    Family(
        name="f32_recurrent__generic",
        workload_type=RecurrentWorkload,
        isa_features=GENERIC,
        weight_bits=frozenset({FLOAT_BITS}),
        activation_bits=frozenset({FLOAT_BITS}),
        operand_ranges="float32; products are added up over h in its order",
        accepts=_accepts,
        knob_space=_knob_space,
        build=lambda request, knobs: RecurrentFrame(request, knobs).build(),
        constants=_constants,
        dtype=DType.FP32,
        parameters=lambda request, knobs: RecurrentFrame(request, knobs).parameters,
        work=lambda request, knobs: RecurrentFrame(request, knobs).work,
    )
)
