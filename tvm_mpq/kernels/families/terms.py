"""How many products an output may add up before an integer leaves its range: what `Family.max_terms` is made of."""

from __future__ import annotations

from tvm_mpq.kernels.registry import Request
from tvm_mpq.numerics.affine import unsigned_range
from tvm_mpq.numerics.conv import most_terms

_GREATEST = 2**31 - 1


def int32_terms(request: Request) -> int:
    """For kernels that add products in int32 modulo 2^32: what bias and products come to must fit."""
    return most_terms(request.precision.weight_bits, request.precision.activation_bits)


def scaled_terms(request: Request, product: int) -> int:
    """For kernels that shift sums of up to `product` for each term right: these must fit int32 by themselves."""
    return min(int32_terms(request), _GREATEST // product)


def mean_terms(request: Request) -> int:
    """For sums of activations, without a bias."""
    return _GREATEST // unsigned_range(request.precision.activation_bits)[1]
