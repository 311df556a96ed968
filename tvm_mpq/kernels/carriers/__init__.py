"""Operators without weights, on bytes and on floats. Importing this package registers their rows."""

from __future__ import annotations

from tvm_mpq.kernels.carriers import activation, concat, convert, copy, elementwise, pool  # noqa: F401
