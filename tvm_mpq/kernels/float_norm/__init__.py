"""Layer normalisation as one kernel, on floats or from and to bytes."""

from __future__ import annotations

from tvm_mpq.kernels.float_norm.layer_norm import NormShape, build_layer_norm

__all__ = ["NormShape", "build_layer_norm"]
