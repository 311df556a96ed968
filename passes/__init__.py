"""Relax passes: a float network in, mixed-precision kernels out.

    mod = tvm.transform.Sequential([Normalize(), Annotate(), Realize(plan)])(mod)
"""

from tvm_mpq.passes.annotate import Annotate
from tvm_mpq.passes.normalize import Normalize
from tvm_mpq.passes.pipeline import mixed_precision
from tvm_mpq.passes.realize import Realize

__all__ = ["Annotate", "Normalize", "Realize", "mixed_precision"]
