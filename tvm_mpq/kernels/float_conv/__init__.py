"""Float convolution families; importing this package registers their rows.

f32_conv2d    dense convolutions and linear layers: inputs broadcast, output channels in vectors, register tiles
f32_gconv2d   any other number of groups, with the same code inside each group
f32_dwconv2d  one input and one output channel a group: channels in vectors
bf16_conv2d, bf16_gconv2d  the first two with operands rounded to bfloat16, where the machine multiplies pairs of them
"""

from __future__ import annotations

from tvm_mpq.kernels.float_conv import rows

CONV2D, GCONV2D, DWCONV2D, BF16_CONV2D, BF16_GCONV2D = rows.register_rows()

__all__ = ["BF16_CONV2D", "BF16_GCONV2D", "CONV2D", "DWCONV2D", "GCONV2D"]
