"""Convolutions of integers that are hard to get right, with random operands or both ends of every range."""

from __future__ import annotations

import numpy as np

from mpq_testing.emulated import Case
from tvm_mpq.kernels.registry import Kernel
from tvm_mpq.numerics.activation_names import is_clamp
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.schema import W4A8, W8A8, Conv2dWorkload, Precision, TensorQuant

C = Conv2dWorkload
SAME = (1, 1, 1, 1)

DENSE = [
    C(1, 7, 7, 1, 100, (3, 3), (1, 1), SAME),
    C(1, 13, 9, 3, 33, (3, 3), (2, 2), (0, 1, 2, 1), activation="relu"),
    C(1, 13, 9, 7, 17, (1, 1)),
    C(1, 1, 197, 16, 20, (1, 1), residual=True),
    C(1, 1, 1, 64, 100, (1, 1)),
    C(1, 7, 7, 63, 3, (1, 1), (2, 2), residual=True, activation="clip:0.0:3.0"),
    C(1, 13, 9, 16, 33, (5, 3), (2, 1), (2, 0, 1, 3), (2, 3)),
    C(2, 9, 9, 3, 16, (7, 7), (2, 2), (3, 3, 3, 3)),
    C(3, 5, 5, 100, 1, (1, 1)),
    C(1, 6, 7, 33, 40, (3, 3), (1, 1), SAME, residual=True, activation="relu"),
    C(1, 6, 7, 20, 33, (3, 3), (1, 1), SAME, activation="hard_swish"),
    C(1, 14, 14, 64, 40, (3, 3), (1, 1), SAME),  # large enough for threads
]
DEPTHWISE = [
    C(1, 13, 9, 17, 17, (3, 3), (2, 2), SAME, groups=17, activation="relu"),
    C(1, 7, 7, 64, 64, (3, 3), (1, 1), SAME, groups=64, residual=True),
    C(2, 8, 8, 24, 24, (5, 5), (2, 2), (1, 2, 2, 1), groups=24),
    C(1, 9, 8, 16, 16, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), groups=16),
    C(1, 1, 1, 20, 20, (3, 3), (1, 1), SAME, groups=20, activation="hard_swish"),
    C(1, 5, 9, 20, 20, (1, 7), (1, 1), (0, 3, 0, 3), groups=20),
    C(1, 9, 9, 16, 16, (7, 7), (1, 1), (3, 3, 3, 3), groups=16),
    C(1, 21, 20, 128, 128, (5, 5), (1, 1), (2, 2, 2, 2), groups=128),  # large enough for threads
]
GROUPED = [
    C(1, 5, 6, 6, 12, (3, 3), (1, 1), SAME, groups=6),
    C(1, 9, 8, 32, 64, (3, 3), (2, 2), SAME, groups=4, residual=True),
    C(1, 5, 4, 30, 20, (1, 1), groups=5),
]
TRANSPOSED = [  # input dilation is the stride, padding what the kernel's reach leaves of it
    C(1, 6, 7, 20, 33, (2, 2), padding=(1, 1, 1, 1), input_dilation=(2, 2)),  # k2s2
    C(2, 5, 6, 16, 40, (4, 4), padding=(2, 2, 2, 2), activation="relu", input_dilation=(2, 2)),  # k4s2p1
    C(1, 5, 4, 33, 20, (3, 3), padding=(1, 1, 1, 1), residual=True, input_dilation=(2, 2)),  # an odd output
    C(1, 5, 4, 7, 10, (3, 3), padding=(1, 1, 2, 2), activation="silu", input_dilation=(2, 2)),  # output padding
    C(1, 4, 5, 12, 16, (2, 3), padding=(1, 2, 1, 2), input_dilation=(3, 1)),  # phases without a tap
    C(1, 6, 6, 16, 16, (3, 3), padding=(-1, 0, 0, -1), input_dilation=(2, 2)),  # more padding than the kernel reaches
    C(1, 1, 9, 8, 24, (1, 5), padding=(0, 3, 0, 3), input_dilation=(1, 4)),  # of one axis
    C(1, 4, 4, 6, 12, (4, 4), padding=(2, 2, 2, 2), groups=6, input_dilation=(2, 2)),
    C(1, 4, 4, 16, 16, (4, 4), padding=(2, 2, 2, 2), groups=16, input_dilation=(2, 2)),
    C(1, 16, 16, 32, 40, (4, 4), padding=(2, 2, 2, 2), input_dilation=(2, 2)),  # large enough for threads
]
TURNS = [  # precision, bits of the output, threads, whether operands are at their ends
    (W8A8, 8, 1, True),
    (W4A8, 32, 2, False),
    (W8A8, 32, 2, False),
    (W4A8, 8, 1, True),
    (Precision(2, 5), 8, 2, True),
    (Precision(6, 6), 8, 1, True),
]


def make_case(kernel: Kernel, rng: np.random.Generator, extreme: bool) -> Case:
    """Random operands, or both ends of every range."""
    request = kernel.request
    w, p = request.workload, request.precision
    assert isinstance(w, C)
    taps = w.kernel[0] * w.kernel[1] * w.in_channels // w.groups
    top = 2**p.activation_bits - 1
    weight = rng.standard_normal((w.out_channels, *w.kernel, w.in_channels // w.groups)).astype(np.float32)
    zero_point = int(rng.integers(0, top + 1))
    shape = (w.batch, w.in_height, w.in_width, w.in_channels)
    x = rng.integers(0, top + 1, shape)
    if extreme:
        weight, zero_point = np.sign(weight), int(rng.choice([0, top]))
        x = rng.choice([0, top], shape)
        weight[: w.out_channels // 2] = np.abs(weight[: w.out_channels // 2])  # sums that grow as far as they can
        x[:, : w.in_height // 2] = 0
    r = rng.integers(0, 256, (w.batch, w.out_height, w.out_width, w.out_channels))

    def quant(scale: float, point: int, bits: int = 8) -> TensorQuant:
        return TensorQuant(bits, float(np.float32(scale)), point)

    operands = Operands(
        (quant(0.03, zero_point, p.activation_bits), *([quant(0.05, 131)] if w.residual else [])),
        None if request.out_bits == 32 else quant(0.01 * taps**0.5, 120),
        weight,
        rng.standard_normal(w.out_channels).astype(np.float32),
        None if is_clamp(w.activation) else quant(0.012 * taps**0.5, 100),
    )
    return Case.of(kernel, operands, [x.astype(np.uint8), *([r.astype(np.uint8)] if w.residual else [])])
