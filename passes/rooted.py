"""Kernels written as scripts, in the form that Relax's passes expect of any PrimFunc."""

from __future__ import annotations

from tvm.s_tir import SBlock, SBlockRealize
from tvm.tirx import PrimFunc


def rooted(func: PrimFunc) -> PrimFunc:
    """`func` without a global name, its body in a root block."""
    body = SBlockRealize([], True, SBlock([], [], [], "root", func.body))
    return func.with_body(body).without_attr("global_symbol")
