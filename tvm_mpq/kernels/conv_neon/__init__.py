"""Integer convolutions and linear layers for 64-bit ARM: `sdot` where the core has it, else `smull` and `sadalp`."""

from tvm_mpq.kernels.conv_neon import families as families
