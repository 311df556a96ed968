"""What a network's file says of integers, when it was quantized elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm_mpq.schema.formats import TensorQuant


@dataclass
class StoredQuantization:
    """Numbers of a file that holds integers; its weights were dequantized when it was read.

    tensors : name -> how the file rounds the values of this tensor to a byte.
    weights : name of an operator's result -> scales of the weight's integers, of each output channel or one for all.
    """

    tensors: dict[str, TensorQuant] = field(default_factory=dict)
    weights: dict[str, tuple[float, ...]] = field(default_factory=dict)
