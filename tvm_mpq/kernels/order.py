"""Which of several rows that serve a request is the untuned default: the one that stands first here.

Rows of different operators never meet, nor do those of different machines but where one has the features of the other.
"""

from __future__ import annotations

_AVX512 = (
    # Weights of one and two bits: counting bits, then linear layers of few rows, then sums from tables.
    "qu2_qs1_s32_bitconv2d__avx512vpopcntdq",
    "qu8_qc2u_s32_linear__avx512vnni",
    "qu8_qs1_s32_lutlinear__avx512vbmi",
    "qu8_qs2_s32_lutconv2d__avx512vbmi",
    "qu8_qs1_s32_lutconv2d__avx512vbmi",
    # Packed weights. Those of one bit stand behind the tables, which are faster for activations of few bits.
    "qu8_qc4u_s32_linear__avx512vnni",
    "qu8_qc1u_s32_linear__avx512vnni",
    "qu8_qc4s_s32_conv2d__avx512vnni",
    "qu8_qc4s_s8_conv2d__avx512vnni",
    # Weights in bytes.
    "qu8_qs8_s32_dwconv2d__avx512vnni",
    "qu8_qs8_s32_conv2d__avx512vnni",
    "qu8_qs8_s32_gconv2d__avx512vnni",
    "qu8_qu8_s32_attention__avx512vnni",
    "qu8_qs8_s32_recurrent__avx512vnni",
)
_FEWER_PRODUCTS = (
    # Of 256 bits: faster than products of bytes. Tables also where these are AVX-VNNI's, by static analysis.
    "qu8_qs8_s32_winograd__avx2",
    "qu8_qs2_s32_lutconv2d__avx2",
    "qu8_qs1_s32_lutconv2d__avx2",
)
_AVX_VNNI = (
    "qu8_qc4u_s32_linear__avxvnni",
    "qu8_qc2u_s32_linear__avxvnni",
    "qu8_qc1u_s32_linear__avxvnni",
    "qu8_qs8_s32_dwconv2d__avxvnni",
    "qu8_qs8_s32_conv2d__avxvnni",
    "qu8_qs8_s32_gconv2d__avxvnni",
    "qu8_qu8_s32_attention__avxvnni",
    "qu8_qs8_s32_recurrent__avxvnni",
)
_AVX2 = (
    "qu8_qc4u_s16_linear__avx2",
    "qu8_qc2u_s16_linear__avx2",
    "qu8_qc1u_s16_linear__avx2",
    "qu8_qs8_s16_dwconv2d__avx2",
    "qu8_qs8_s32_dwconv2d__avx2",
    "qu8_qs8_s16_conv2d__avx2",
    "qu8_qs8_s32_conv2d__avx2",
    "qu8_qs8_s32_gconv2d__avx2",
    "qu8_qu8_s32_attention__avx2",
    "qu8_qs8_s32_recurrent__avx2",
)
_ARM = (
    # Products of matrices are faster than tables of one bit, these than sdot; tables of more bits are only faster than
    # products without it. Packed weights of one bit stand behind the tables, as elsewhere.
    "qu8_qc4u_s32_linear__dotprod",
    "qu8_qc2u_s32_linear__dotprod",
    "qu8_qs8_s32_conv2d__i8mm",
    "qu8_qs1_s32_lutconv2d__neon",
    "qu8_qc1u_s32_linear__dotprod",
    "qu8_qs8_s32_conv2d__dotprod",
    "qu8_qs8_s32_gconv2d__dotprod",
    "qu8_qs3_s32_lutconv2d__neon",
    "qu8_qs2_s32_lutconv2d__neon",
    "qu8_qc4u_s16_linear__neon",
    "qu8_qc2u_s16_linear__neon",
    "qu8_qc1u_s16_linear__neon",
    "qu8_qs8_s32_dwconv2d__neon",
    "qu8_qs8_s16_conv2d__neon",
    "qu8_qs8_s32_conv2d__neon",
    "qu8_qs8_s32_gconv2d__neon",
)
_PORTABLE = (
    "qu8_qs8_s32_dwconv2d__generic",
    "qu8_qs8_s32_conv2d__generic",
    "qu8_qs8_s32_gconv2d__generic",
    "qu8_qu8_s32_attention__generic",
    "qu8_qs8_s32_recurrent__generic",
)
_FLOAT = (
    # The grouped row also takes depthwise convolutions.
    "f32_conv2d__generic",
    "f32_dwconv2d__generic",
    "f32_gconv2d__generic",
    "bf16_conv2d__avx512bf16",
    "bf16_gconv2d__avx512bf16",
    "f16_conv2d__fullfp16",
    "f16_gconv2d__fullfp16",
    "f32_attention__generic",
    "f32_recurrent__generic",
)
_WEIGHTLESS = (
    # Tables in registers before tables in memory.
    "qu8_table_activation__avx512vbmi",
    "qu8_table_activation__generic",
    "f32_activation__generic",
    "qu8_qu8_f32_add__avx512vbmi",
    "qu8_qu8_f32_add__generic",
    "f32_f32_add__generic",
    "qu8_qu8_f32_multiply__avx512vbmi",
    "qu8_qu8_f32_multiply__generic",
    "f32_f32_multiply__generic",
    "qu8_table_convert__avx512vbmi",
    "qu8_table_convert__generic",
    "f32_qu8_convert__generic",
    "qu8_f32_convert__generic",
    "f32_f32_convert__generic",
    "qu8_f32_concat__generic",
    "f32_concat__generic",
    "qu8_copy__generic",
    "f32_copy__generic",
    "qu8_pool2d__generic",
    "f32_pool2d__generic",
    "qu8_f32_layernorm__generic",
    "f32_layernorm__generic",
)

ORDER = (*_AVX512, *_FEWER_PRODUCTS, *_AVX_VNNI, *_AVX2, *_ARM, *_PORTABLE, *_FLOAT, *_WEIGHTLESS)
"""Names of all rows, the best untuned default first."""
