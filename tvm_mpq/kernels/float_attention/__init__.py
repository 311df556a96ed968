"""softmax(q k^T) v in float32 as one kernel, reading q, k and v wherever they lie."""

from __future__ import annotations

from tvm_mpq.kernels.float_attention.build import build_attention
from tvm_mpq.kernels.float_attention.desc import AttentionShape, Operand

__all__ = ["AttentionShape", "Operand", "build_attention"]
