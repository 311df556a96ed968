"""Convolutions by table look-up for weights of two bits: sums of activations are looked up instead of multiplied."""

from tvm_mpq.kernels.lut import families as families
