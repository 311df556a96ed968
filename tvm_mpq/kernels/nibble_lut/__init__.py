"""Convolutions by look-up in tables of 16 entries, for machines whose byte permute takes 16 bytes: AVX2 and NEON."""

from tvm_mpq.kernels.nibble_lut import families as families
