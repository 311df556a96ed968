"""Linear layers of few rows: time goes into reading weights, so these are packed and unpacked in registers by masks."""

from tvm_mpq.kernels.packed_linear import families as families
