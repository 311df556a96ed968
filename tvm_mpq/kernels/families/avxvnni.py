"""Rows of the kernel table for AVX-VNNI: x86 clients without AVX-512."""

from __future__ import annotations

from tvm_mpq.kernels.families.accept import is_dense, is_grouped
from tvm_mpq.kernels.families.row import convolution_row
from tvm_mpq.kernels.features import AVX_VNNI
from tvm_mpq.kernels.knobs.avxvnni import tiles_vnni_256
from tvm_mpq.kernels.machines.avxvnni import AvxVnni

convolution_row("qu8_qs8_s32_conv2d__avxvnni", AVX_VNNI, is_dense, lambda r: AvxVnni(), tiles_vnni_256)
convolution_row("qu8_qs8_s32_gconv2d__avxvnni", AVX_VNNI, is_grouped, lambda r: AvxVnni(), tiles_vnni_256)
