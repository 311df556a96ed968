"""The rows of recurrent layers, the loop over the steps of an LSTM, a GRU or a plain RNN: in float32, and by bytes."""

from __future__ import annotations

import numpy as np

from tvm_mpq.kernels.emit import tiles
from tvm_mpq.kernels.emit.activations import is_known
from tvm_mpq.kernels.families.weightless import float_row, int_row
from tvm_mpq.kernels.features import AVX2, AVX_VNNI, GENERIC, VNNI, vector_registers
from tvm_mpq.kernels.frames.recurrent import RecurrentFrame, recurrent_of
from tvm_mpq.kernels.frames.recurrent_bytes import ByteRecurrentFrame, StateMachine
from tvm_mpq.kernels.machines import avxvnni, vnni512
from tvm_mpq.kernels.machines.pairs import Avx2Pairs, PortablePairs
from tvm_mpq.kernels.machines.states import ByteStates, WordStates
from tvm_mpq.kernels.registry import Family, Knobs, Request, register
from tvm_mpq.numerics.activation_names import parse
from tvm_mpq.numerics.affine import unsigned_range
from tvm_mpq.numerics.fused_activations import NAMES
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.recurrent import weight_and_vectors
from tvm_mpq.numerics.recurrent_bytes import longest_sum, recurrent_constants
from tvm_mpq.schema import FLOAT_BITS, DType, RecurrentWorkload

_ACCUMULATORS = {32: 20, 16: 12}
"""Of a register tile, by the vector registers there are: the others hold h and vectors of weights."""
_ROWS = 4
_LEAST: Knobs = {"rows": 1, "units": 1}
_NEAR_BYTES = 1 << 15
"""Packed weights of one direction that a first cache holds: behind it, half the bytes are worth an instruction more."""


def _accepts(request: Request) -> bool:
    return request.out_bits == FLOAT_BITS and all(map(is_known, recurrent_of(request).activations))


def _knob_space(request: Request, whole: RecurrentFrame) -> list[Knobs]:
    """As many sequences as share a weight, then as many vectors as the registers hold, and half of each.

    whole: a frame of the request, whatever its knobs.
    """
    w = recurrent_of(request)
    most = _ACCUMULATORS[vector_registers(request.features)]
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
    weight, vectors = (np.ascontiguousarray(x, np.float32) for x in weight_and_vectors(operands))
    found = [RecurrentFrame(request, knobs).pack(weight), vectors]
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
        knob_space=lambda request: _knob_space(request, RecurrentFrame(request, _LEAST)),
        build=lambda request, knobs: RecurrentFrame(request, knobs).build(),
        constants=_constants,
        dtype=DType.FP32,
        parameters=lambda request, knobs: RecurrentFrame(request, knobs).parameters,
        work=lambda request, knobs: RecurrentFrame(request, knobs).work,
    )
)


def _served(request: Request, machine: StateMachine) -> bool:
    """Whole vectors of units, and activations whose every rounding is defined."""
    w = recurrent_of(request)
    known = all(parse(name)[0] in NAMES for name in w.activations)
    return request.out_bits == FLOAT_BITS and known and _accepts(request) and w.hidden >= max(1, machine.lanes)


def _byte_knobs(request: Request, machine: StateMachine) -> list[Knobs]:
    whole = ByteRecurrentFrame(request, {**_LEAST, "stored": "int8"}, machine)
    near = 2 * whole.packed_size <= _NEAR_BYTES
    stored = machine.stored[:: -1 if near else 1]
    return [{**knobs, "stored": kind} for kind in stored for knobs in _knob_space(request, whole)]


def _byte_constants(request: Request, knobs: Knobs, operands: Operands, machine: StateMachine) -> list[np.ndarray]:
    """Weight, vectors, factors and, of machines that do not center h, what its zero point adds; lengths; the range."""
    w, given = recurrent_of(request), recurrent_constants(recurrent_of(request), operands)
    found = [ByteRecurrentFrame(request, knobs, machine).pack(given.weight), given.vectors, given.factor.reshape(-1)]
    if not machine.centered:
        found.append(-given.state.zero_point * given.weight.sum(axis=-1, dtype=np.int32).reshape(-1))
    if w.lengths:
        found.append(np.array(w.lengths, np.int32))
    return [*found, int_row(given.state.zero_point, *unsigned_range(given.state.bits)), float_row(given.per_step)]


def _byte_row(isa: str, features: frozenset[str], machine: StateMachine, *, offered: bool = True) -> None:
    register(
        Family(
            name=f"qu8_qs8_s32_recurrent__{isa}",
            workload_type=RecurrentWorkload,
            isa_features=features,
            weight_bits=frozenset({8}),
            activation_bits=frozenset({8}),
            operand_ranges="h and its zero point 0..255, weights -127..127; all else float32",
            accepts=lambda request: _served(request, machine),
            knob_space=lambda request: _byte_knobs(request, machine),
            build=lambda request, knobs: ByteRecurrentFrame(request, knobs, machine).build(),
            constants=lambda request, knobs, operands: _byte_constants(request, knobs, operands, machine),
            parameters=lambda request, knobs: ByteRecurrentFrame(request, knobs, machine).parameters,
            work=lambda request, knobs: ByteRecurrentFrame(request, knobs, machine).work,
            max_terms=lambda request: longest_sum(request.precision.activation_bits),
            offered=offered,
        )
    )


_byte_row("avx512vnni", VNNI, ByteStates(16, vnni512.dot))
_byte_row("avxvnni", AVX_VNNI, ByteStates(8, avxvnni.dot))
_byte_row("avx2", AVX2, WordStates(Avx2Pairs(), 8))
# Without AVX2 each fma is a call; NEON adds four products an instruction in floats as in words.
_byte_row("generic", GENERIC, WordStates(PortablePairs(), 0), offered=False)
