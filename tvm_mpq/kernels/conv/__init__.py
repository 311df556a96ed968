"""Integer convolutions and linear layers: dense, depthwise and grouped, for every target."""

from tvm_mpq.kernels.conv import families as families
