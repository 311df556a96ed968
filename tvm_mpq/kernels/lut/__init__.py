"""Convolutions by table look-up for weights of one and two bits: sums of activations are looked up, not multiplied."""

from tvm_mpq.kernels.lut import families as families
