"""Convolutions of one-bit weights and activations of a bit or two: exclusive or, and counting bits."""

from tvm_mpq.kernels.bit_serial import families as families
