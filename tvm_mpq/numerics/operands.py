"""What an operator's arithmetic needs beside its input arrays: weights, bias and the ranges of its tensors."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mpq.numerics.arrays import FloatArray
from tvm_mpq.numerics.weight_codes import QuantizedWeight
from tvm_mpq.schema import TensorQuant


@dataclass(frozen=True)
class Operands:
    """Float weights and the quantization of each activation tensor.

    weight float32[O, KH, KW, I/groups]; bias float32[O] (zeros when the layer has none); inputs and output: None where
    that tensor is float32. pre_activation: 8 bit range of the value before a non-linear activation that is not a clamp
    (hard-swish, gelu, ...); None for none, relu and clip. weight_bits: of the quantized weight where a kernel of more
    bits computes an operator of fewer; None = the kernel's own. codes: the weight's integers where they were chosen
    elsewhere; None = `weight` rounded to nearest. state: of a recurrent layer of integer products, the range of h.
    """

    inputs: tuple[TensorQuant | None, ...]
    output: TensorQuant | None
    weight: FloatArray | None = None
    bias: FloatArray | None = None
    pre_activation: TensorQuant | None = None
    weight_bits: int | None = None
    codes: QuantizedWeight | None = None
    state: TensorQuant | None = None
